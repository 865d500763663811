"""`gatepass init` over a gateway with chats alone: Codex and Claude Code work with what it writes and prints."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.agent_hosts import AGENT_HOSTS
from gatepass.config.load import load
from gatepass.proxy.app_state import create_app_state
from tests.integration.gateway import JSON, serving
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.integration.strict_azure import StrictAzure

SECRET, TOKEN = "planted-secret-4711", "minted-0815"
FIRST = {"codex": "response.created", "claude-code": "message_start"}
LAST = {"codex": "response.completed", "claude-code": "message_stop"}


def serve(request: Received) -> Dialogue:
    """Answer as an issuer, and as a gateway that refuses each unknown path and member."""
    if request.target == "/oauth/token":
        return [Send(reply({"access_token": TOKEN, "expires_in": 300}))]
    return StrictAzure(TOKEN).answer(request)


async def test_both_hosts_work_at_once_over_a_gateway_with_chats_alone(tmp_path: Path):
    path = tmp_path / "gatepass.yaml"
    (tmp_path / "secret").write_text(SECRET)
    async with Scripted(answer=serve) as upstream:
        options = {
            "--base-url": f"{upstream.url}/v1",
            "--token-url": f"{upstream.url}/oauth/token",
            "--client-id": "me",
            "--secret-file": str(tmp_path / "secret"),
            "--clients": "claude_code,codex",
            "--output": str(path),
        }
        command = ["init", "--yes", *(word for option in options.items() for word in option)]
        result = await asyncio.to_thread(CliRunner().invoke, main, command)
        assert result.exit_code == 0, result.output
        assert "The LLM gateway has chat completions, but no responses and no messages.\n" in result.output
        assert "protocols: [chat]" in path.read_text()
        config = load(str(path), os.environ).config
        upstream.received.clear()

        keys = {
            "codex": re.search(r"LLM_API_KEY=(\S+)", result.output),
            "claude-code": re.search(r'"ANTHROPIC_AUTH_TOKEN": "([^"]+)"', result.output),
        }
        async with serving(create_app_state(config)) as gp:
            for name, key in keys.items():
                assert key is not None
                call = AGENT_HOSTS[name].call("gpt-4o")
                headers = {**JSON, "authorization": f"Bearer {key[1]}"}
                headers |= {field.decode(): value.decode() for field, value in call.headers}
                answered = await gp.ask(call.body, f"/v1{call.operation.path}", headers=headers).answer()
                assert answered.status == 200, answered.body
                events = [json.loads(data) for data in answered.events]
                assert (events[0]["type"], events[-1]["type"]) == (FIRST[name], LAST[name])
                assert answered.headers["x-gatepass-adapted"].startswith(f"translate={call.operation.name}")
    asked = {request.target for request in upstream.received}
    assert asked == {"/oauth/token", "/v1/chat/completions"}


async def test_a_gateway_that_shows_nothing_gets_no_setting(tmp_path: Path):
    path = tmp_path / "gatepass.yaml"

    def serve_model_list(request: Received) -> Dialogue:
        models = {"object": "list", "data": [{"id": "m"}]}
        return [Send(reply(models if request.target == "/v1/models" else {"error": "no token"}, 200))]

    async with Scripted(answer=serve_model_list) as upstream:
        command = ["init", "--yes", "--base-url", f"{upstream.url}/v1", "--auth", "none", "--output", str(path)]
        result = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert result.exit_code == 0, result.output
    assert "protocols" not in path.read_text() + result.output
