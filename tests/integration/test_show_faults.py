"""From the id in a client's error to the hop that failed, with `gatepass show`, for staged faults."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from gatepass.auth.api_keys import hash_key
from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import Ask
from tests.integration.scripted import Dialogue, Fin, Hold, Received, Scripted, Send, begin_stream, chunk, head, reply
from tests.integration.test_requests_command import REFUSAL, command
from tests.integration.workers.test_supervisor import started
from tests.waiting import until

KEY, LIMITED = "gp-key-of-the-operator-1", "gp-key-with-one-request"
PAGE = b"<html><title>Sign in</title></html>"
LOGIN = head(content_type="text/html", content_length=str(len(PAGE))) + PAGE
REJECTED = {"error": {"message": "Token has expired", "code": "invalid_token"}}

FAULTS = {
    "refusing-issuer": "✗ credential:refusing",
    "html-issuer": "✗ credential:html",
    "hanging-issuer": "✗ credential:hanging",
    "no-issuer": "✗ credential:nowhere",
    "dns": "✗ upstream:dns",
    "connect": "✗ upstream:connect",
    "tls": "✗ upstream:tls",
    "proxy": "✗ upstream:proxy",
    "rejected": "✗ upstream:chat",
    "102": "✗ upstream:chat",
    "login": "✗ upstream:chat",
    "empty": "✗ upstream:chat",
    "cut": "✗ upstream:chat",
    "slow": "✗ upstream:slow",
    "slow-total": "✗ upstream:total",
    "refused": "✗ upstream:chat",
    "unknown-model": "✗ client",
    "bad-body": "✗ client",
}
"""Each fault by the model of its request, and how its hop is marked."""


def served(request: Received) -> Dialogue:
    model = json.loads(request.body)["model"]
    match model:
        case "rejected":
            return [Send(reply(REJECTED, 401))]
        case "102":
            return [Send(reply({"code": 102, "message": "bad thing"}))]
        case "login":
            return [Send(LOGIN)]
        case "empty":
            return [Send(head(content_length="0"))]
        case "cut":
            return [*begin_stream(), Send(chunk(EVENTS[0])), Fin()]
        case "slow" | "slow-total" | "busy":
            return [Hold()]
        case "refused":
            return [Send(reply({"error": {**REFUSAL["error"], "param": "messages"}}, 400))]
    return [Send(reply(COMPLETION))]


async def test_show_names_the_hop_of_each_fault(tmp_path: Path):
    path = str(tmp_path / "own" / "control.sock")

    def credential(url: str, **changes: Any) -> dict[str, Any]:
        return {
            "type": "oauth2",
            "token_url": url,
            "client_id": "i",
            "client_secret": "a-long-client-secret",
            **changes,
        }

    async with (
        Scripted(answer=served) as upstream,
        Scripted(answer=lambda _: [Send(reply({"error": "invalid_client"}, 401))]) as refusing,
        Scripted(answer=lambda _: [Send(LOGIN)]) as html,
        Scripted(answer=lambda _: [Hold()]) as hanging,
    ):
        base_url = f"{upstream.url}/v1"
        credentials = {
            "refusing": credential(refusing.url),
            "html": credential(html.url),
            "hanging": credential(hanging.url, timeout_s=1),
            "nowhere": credential("http://127.0.0.1:9/token"),
            "corp": {"type": "static", "token": "fixed-token-1234"},
        }
        with_token = {name: {"base_url": base_url, "credential": name} for name in credentials}
        upstreams = {
            **with_token,
            "chat": {"base_url": base_url, "credential": "corp"},
            "dns": {"base_url": "http://no.such.host.invalid/v1"},
            "connect": {"base_url": "http://127.0.0.1:9/v1"},
            "tls": {"base_url": upstream.url.replace("http", "https") + "/v1"},
            "proxy": {"base_url": "http://llm.example/v1", "network": {"proxy": "http://127.0.0.1:9"}},
            "slow": {"base_url": base_url, "timeouts": {"first_byte_s": 0.5}},
            "total": {"base_url": base_url, "timeouts": {"total_s": 0.5}},
        }
        models = {
            **{f"{name}-issuer": {"upstream": name} for name in ("refusing", "html", "hanging")},
            "no-issuer": {"upstream": "nowhere"},
            **{name: {"upstream": name} for name in ("dns", "connect", "tls", "proxy", "slow")},
            "slow-total": {"upstream": "total"},
            **{
                name: {"upstream": "chat"}
                for name in ("rejected", "102", "login", "empty", "cut", "refused", "bad-body")
            },
            "busy": {"upstream": "chat"},
            "over": {"targets": [{"upstream": "connect"}, {"upstream": "chat"}]},
        }
        keys = [
            {"name": "operator", "hash": hash_key(KEY)},
            {"name": "limited", "hash": hash_key(LIMITED), "max_concurrent": 1, "models": ["busy"]},
        ]
        configuration: dict[str, Any] = {
            "server": {"control_socket": path, "drain_timeout_s": 1},
            "access": {"keys": keys},
            "credentials": credentials,
            "upstreams": upstreams,
            "models": models,
        }
        async with started(tmp_path, configuration, 1) as running:
            port = await running.port

            def ask(name: str, key: str = KEY, **changes: Any) -> Ask:
                fields = {"content-type": "application/json", "x-request-id": name, "authorization": f"Bearer {key}"}
                body = {"model": name, "messages": [{"role": "user", "content": "hi"}], **changes}
                return Ask(port, "POST", "/v1/chat/completions", fields, json.dumps(body).encode())

            def marked(name: str) -> list[str]:
                lines = command("show", name, "--socket", path).splitlines()
                return [" ".join(line.split()[:2]) for line in lines if "◀" in line]

            changes: dict[str, dict[str, Any]] = {"cut": {"stream": True}, "bad-body": {"stream": 3}}
            answers = await asyncio.gather(*(ask(name, **changes.get(name, {})).answer() for name in FAULTS))
            found = {}
            for name, answer in zip(FAULTS, answers, strict=True):
                hop = answer.error["hop"]
                found[name] = marked(name)
                assert found[name] == [f"✗ {hop}"], command("show", name, "--socket", path)
            assert found == {name: [mark] for name, mark in FAULTS.items()}

            assert (await ask("bad-key", "gp-not-a-key").answer()).status == 401
            assert (await ask("not-allowed", LIMITED, model="m").answer()).status == 403
            async with ask("busy", LIMITED):
                await until(lambda: "busy" in command("tail", "--once", "--running", "--socket", path))
                assert (await ask("full", LIMITED, model="busy").answer()).status == 429
            await until(lambda: "client gone" in command("show", "busy", "--socket", path))
            assert (await ask("over").answer()).status == 200
            assert [marked(name) for name in ("bad-key", "not-allowed", "full", "busy", "over")] == [
                *(["✗ client"], ["✗ client"], ["✗ gatepass"], ["✗ client"], []),
            ]
            assert "  ✗ upstream:connect  upstream_connect" in command("show", "over", "--socket", path).splitlines()
