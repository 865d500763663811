"""`gatepass doctor --as` sends the request of an agent host, and prints what to set in it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gatepass.cli import main
from gatepass.cli.agent_hosts import AGENT_HOSTS
from gatepass.cli.options import AGENT_HOSTS as CHOICES
from tests.integration import messages_upstream
from tests.integration.scripted import Dialogue, Received, Scripted, Send, event, reply, stream

TOKEN = "static-token-4711"
LIST = [Send(reply({"object": "list", "data": [{"id": "m"}]}))]
COMPLETED = {"type": "response.completed", "response": {"id": "r", "object": "response", "status": "completed"}}
RESPONSE = [Send(stream(event({"type": "response.created", "response": {"id": "r"}}), event(COMPLETED)))]


TWO = {"keys": [{"name": name, "hash": f"sha256:{mark * 64}"} for name, mark in (("codex", "0"), ("dify", "1"))]}


def serve(request: Received) -> Dialogue:
    if request.header("authorization") != f"Bearer {TOKEN}":
        return [Send(reply({"error": {"message": "no token"}}, 401))]
    if request.target == "/v1/models":
        return LIST
    if request.target == "/v1/messages?beta=true":
        return messages_upstream.answer()(request)
    return RESPONSE if request.target == "/v1/responses" else [Send(reply({"detail": "Not Found"}, 404))]


async def doctor(upstream: Scripted, folder: Path, *arguments: str, **blocks: Any) -> Result:
    """Run `gatepass doctor` for one upstream."""
    path = folder / "gatepass.json"
    config = {
        "credentials": {"c": {"type": "static", "token": TOKEN}},
        "upstreams": {"chat": {"base_url": f"{upstream.url}/v1", "credential": "c"}},
        "models": {"m": {"upstream": "chat"}},
        **blocks,
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    command = ["doctor", *arguments, "--config", str(path)]
    return await asyncio.to_thread(CliRunner().invoke, main, command)


def calls(upstream: Scripted) -> Sequence[Received]:
    """The requests that are not empty ones, which ask for the protocols of the upstream."""
    return [request for request in upstream.received if request.method == "POST" and request.body != b"{}"]


async def test_the_request_of_codex_is_sent_and_its_settings_are_printed(tmp_path: Path):
    async with Scripted(answer=serve) as upstream:
        result = await doctor(upstream, tmp_path, "m", "--as", "codex", "--key", "codex", access=TWO)
    assert result.exit_code == 0, result.output
    (sent,) = calls(upstream)
    body: Mapping[str, Any] = sent.json()
    assert (sent.target, body["stream"], body["store"]) == ("/v1/responses", True, False)
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["tools"][0]["name"] == "exec_command"
    assert "ok   upstream:chat stream: the request of Codex 0.169.0 with m: first event after" in result.output
    assert 'base_url = "http://127.0.0.1:8080/v1"\n  wire_api = "responses"\n' in result.output
    assert '  model = "m"\n' in result.output


async def test_the_request_of_claude_code_is_sent_and_its_settings_are_printed(tmp_path: Path):
    async with Scripted(answer=serve) as upstream:
        command = ("m", "--as", "claude_code", "--key", "codex")
        result = await doctor(upstream, tmp_path, *command, server={"port": 9000}, access=TWO)
    assert result.exit_code == 0, result.output
    (sent,) = calls(upstream)
    assert sent.target == "/v1/messages?beta=true"
    assert (sent.header("anthropic-version"), sent.header("x-app")) == ("2023-06-01", "cli")
    assert "context-management-2025-06-27" in str(sent.header("anthropic-beta"))
    assert sent.json()["context_management"] == {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    assert "the request of Claude Code 2.1.330 with m: first event after" in result.output
    settings = result.output.partition("  {\n")[2].partition("\n  }\n")[0]
    assert json.loads(f"{{{settings}}}")["env"] == {
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9000",
        "ANTHROPIC_AUTH_TOKEN": "KEY of this client",
        "ANTHROPIC_MODEL": "m",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "m",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


@pytest.mark.parametrize("model", [{}, {"protocols": ["chat"]}], ids=["chats tried", "chats alone"])
async def test_an_upstream_without_the_api_and_without_chats_fails_in_its_words(tmp_path: Path, model: dict[str, Any]):
    models = {"m": {"upstream": "chat", **model}}
    async with Scripted(answer=without_api) as upstream:
        result = await doctor(upstream, tmp_path, "m", "--as", "claude-code", "--json", models=models)
    assert result.exit_code == 1
    document = json.loads(result.output)
    assert document["failed"] == ["upstream:chat stream"]
    path = "chat/completions" if model else "messages"
    assert f"POST {upstream.url}/v1/{path}: Not Found" in document["steps"][-1]["why"]
    advice = (
        "Correct `upstreams.chat.base_url`: gatepass sent a chat for this request, and the upstream has none there."
    )
    assert document["steps"][-1]["advice"].startswith(advice)
    assert "settings" not in document, "they would not work"


def without_api(request: Received) -> Dialogue:
    return LIST if request.target == "/v1/models" else [Send(reply({"detail": "Not Found"}, 404))]


def with_chats(request: Received) -> Dialogue:
    if not request.target.endswith("/chat/completions"):
        return without_api(request)
    choice = {"index": 0, "delta": {"role": "assistant", "content": "ping"}, "finish_reason": "stop"}
    return [Send(stream(event({"id": "c", "choices": [choice]}), event("[DONE]")))]


@pytest.mark.parametrize("name", ["codex", "claude-code"])
async def test_an_upstream_with_chats_alone_serves_both(tmp_path: Path, name: str):
    async with Scripted(answer=with_chats) as upstream:
        result = await doctor(upstream, tmp_path, "m", "--as", name)
    assert result.exit_code == 0, result.output
    first, chat = (request.target.partition("?")[0] for request in calls(upstream))
    assert (first, chat) == (f"/v1/{AGENT_HOSTS[name].operation}", "/v1/chat/completions")
    assert f"; a chat served it: POST {upstream.url}/v1/chat/completions\n" in result.output.replace(" (0.", "\n(0.")
    learned = "has chat completions, but no responses; messages: unknown. Set `upstreams.chat.protocols` to [chat]"
    if name == "codex":
        assert f"ok   upstream:chat protocols: {learned}, with messages if it has them." in result.output


async def test_a_declared_chat_is_named_and_advises_nothing(tmp_path: Path):
    models = {"m": {"upstream": "chat", "protocols": ["chat"]}}
    async with Scripted(answer=with_chats) as upstream:
        result = await doctor(upstream, tmp_path, "m", "--as", "codex", models=models)
    assert result.exit_code == 0, result.output
    assert [request.target for request in calls(upstream)] == ["/v1/chat/completions"]
    assert "; a chat served it: POST" in result.output
    assert "Set `" not in result.output


async def test_a_key_that_may_not_use_the_operation_is_refused(tmp_path: Path):
    access = {"keys": [{"name": "dify", "hash": f"sha256:{'0' * 64}", "operations": ["chat"]}]}
    async with Scripted(answer=serve) as upstream:
        result = await doctor(upstream, tmp_path, "m", "--as", "codex", "--key", "dify", access=access)
    assert result.exit_code == 1
    assert "operation_not_allowed" in result.output
    assert calls(upstream) == []


def test_help_has_each_host():
    assert tuple(AGENT_HOSTS) == CHOICES
