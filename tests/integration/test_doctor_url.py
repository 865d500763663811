"""`gatepass doctor --url`: what a client sees of a gatepass, and the hop behind it that fails."""

import asyncio
import json
import ssl
from base64 import b64encode
from contextlib import aclosing
from hashlib import sha256
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result

from gatepass.cli import main, remote
from gatepass.cli.reach import Step, StepOutcome
from gatepass.cli.remote import diagnose_url
from tests.integration.answers import COMPLETION, EVENTS, VECTORS
from tests.integration.gateway import gateway
from tests.integration.messages_upstream import answer
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send, reply, stream

KEY = "gp-0123456789abcdef0123456789-laptop"
MODELS = ("gpt-4o", "bge-m3", "bge-reranker")
LIST = [Send(reply({"object": "list", "data": [{"id": name} for name in MODELS]}))]


def healthy(request: Received) -> Dialogue:
    if request.method == "GET":
        return LIST
    if request.target == "/v1/rerank":
        ranks = [{"index": index, "relevance_score": 0.5} for index in range(len(request.json()["documents"]))]
        return [Send(reply({"results": ranks}))]
    if request.target == "/v1/embeddings":
        return [Send(reply(VECTORS))]
    if request.target == "/v1/messages":
        return answer()(request)
    if request.json().get("stream"):
        return [Send(stream(*EVENTS))]
    return [Send(reply(COMPLETION))]


def blocks(upstream: str, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": {"chat": {"base_url": f"{upstream}/v1"}},
        "models": {"*": {"upstream": "chat"}},
        "access": {"keys": [{"name": "laptop", "hash": f"sha256:{sha256(KEY.encode()).hexdigest()}"}]},
        **more,
    }


async def steps_at(
    url: str, key: str | None = KEY, model: str | None = None, operation: str | None = None, *, call: bool = False
) -> list[Step]:
    begun: list[tuple[str, str]] = []
    found = diagnose_url(url, key, lambda *step: begun.append(step), model, operation, call=call)
    async with aclosing(found) as steps:
        return [step async for step in steps]


def reported(steps: list[Step]) -> list[tuple[str, str, str]]:
    return [(step.hop, step.what, str(step.outcome)) for step in steps]


WAY = [("gatepass", what, "ok") for what in ("connect", "/healthz", "/readyz")]


@pytest.mark.parametrize("path", ["", "/for/ragflow/v1"])
async def test_a_gatepass_that_works_is_proven_from_its_base_url_and_a_key(path):
    async with Scripted(answer=healthy) as upstream, gateway(**blocks(upstream.url)) as gp:
        steps = await steps_at(f"http://127.0.0.1:{gp.port}{path}")
        calls = [request for request in upstream.received if request.method == "POST"]
    assert reported(steps) == [*WAY, ("gatepass", "models", "ok")]
    assert steps[-1].why == "3 models, and the key is accepted"
    assert calls == []


async def test_real_calls_are_made_on_request_whole_and_as_a_stream():
    async with Scripted(answer=healthy) as upstream, gateway(**blocks(upstream.url)) as gp:
        url = f"http://127.0.0.1:{gp.port}/v1"
        steps = await steps_at(url, call=True)
        vectors = await steps_at(url, model="bge-m3", call=True)
    assert reported(steps)[4:] == [("gatepass", "call", "ok"), ("gatepass", "stream", "ok")]
    assert steps[-2].why == "chat with gpt-4o: 200"
    assert steps[-1].why.startswith("chat as a stream with gpt-4o: first event after ")
    assert reported(vectors)[4:] == [("gatepass", "call", "ok")]
    assert vectors[-1].why == "embeddings with bge-m3: 200"


def for_chats(upstream: str) -> dict[str, Any]:
    found = blocks(upstream)
    found["access"]["keys"][0]["operations"] = ["chat"]
    return found


async def test_a_key_that_may_not_list_the_models_is_proven_by_its_call():
    async with Scripted(answer=healthy) as upstream, gateway(**for_chats(upstream.url)) as gp:
        url = f"http://127.0.0.1:{gp.port}/v1"
        called, listed = await steps_at(url, model="gpt-4o", call=True), await steps_at(url)
    assert [step for step in reported(called) if step not in WAY] == [
        ("client", "models", "????"),
        ("gatepass", "call", "ok"),
        ("gatepass", "stream", "ok"),
    ]
    assert reported(listed)[-1] == ("client", "models", "????")
    assert "The caller 'laptop' may not use GET models" in listed[-1].why


async def test_a_silent_upstream_is_not_blamed_on_gatepass_and_not_waited_for_twice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "CALL_S", 0.5)
    async with (
        Scripted(answer=lambda one: LIST if one.method == "GET" else [Hold()]) as upstream,
        gateway(**blocks(upstream.url)) as gp,
    ):
        url = f"http://127.0.0.1:{gp.port}/v1"
        steps = await steps_at(url, model="gpt-4o", operation="chat", call=True)
    assert reported(steps)[4:] == [("gatepass", "call", "FAIL")]
    assert steps[-1].why == (
        f"chat with gpt-4o: 127.0.0.1:{gp.port} did not return a complete reply within 0.5 s, the limit of this"
        " check: it, or the upstream, is silent"
    )
    assert steps[-1].advice == "Run `gatepass doctor gpt-4o --call` where it runs."


async def test_an_upstream_that_stops_in_a_stream_is_reported_at_its_hop_and_each_request_has_its_id():
    hung: Dialogue = [Send(stream(EVENTS[0], end=b"")), Hold()]

    def stops(request: Received) -> Dialogue:
        return hung if request.method == "POST" and request.json().get("stream") else healthy(request)

    async with Scripted(answer=stops) as upstream:
        config = blocks(upstream.url)
        config["upstreams"]["chat"]["timeouts"] = {"idle_s": 0.3}
        async with gateway(**config) as gp:
            steps = await steps_at(f"http://127.0.0.1:{gp.port}/v1", model="gpt-4o", call=True)
        ids = [one.header("x-request-id") for one in upstream.received if one.method == "POST"]
    assert reported(steps)[4:] == [("gatepass", "call", "ok"), ("upstream:chat", "stream", "FAIL")]
    assert "stopped sending in the middle of its reply" in steps[-1].why
    assert len(set(ids)) == 2
    assert all(one is not None and one.startswith("doctor-") for one in ids)
    listings = [one.header("x-request-id") or "" for one in upstream.received if one.target.endswith("/models")]
    assert listings
    assert all(one.startswith("models-") for one in listings)


async def test_failing_issuer_is_reported_by_readyz_and_at_its_hop():
    refusal = [Send(reply({"error": "invalid_client", "error_description": "wrong secret"}, 401))]
    async with Scripted(refusal) as issuer:
        config = blocks("http://127.0.0.1:9")
        config["upstreams"]["chat"]["credential"] = "corp"
        oauth2 = {"type": "oauth2", "token_url": f"{issuer.url}/token", "client_id": "me", "client_secret": "s-4711"}
        async with gateway(**config, credentials={"corp": oauth2}) as gp:
            steps = await steps_at(f"http://127.0.0.1:{gp.port}/v1", model="gpt-4o", call=True)
    by_what = {step.what: step for step in steps}
    assert (by_what["/readyz"].outcome, by_what["/readyz"].advice.startswith("No upstream has")) == (
        StepOutcome.FAILS,
        True,
    )
    assert (by_what["call"].hop, by_what["call"].outcome) == ("credential:corp", StepOutcome.FAILS)
    assert "wrong secret" in by_what["call"].why


async def test_unknown_key_is_reported_with_its_variable():
    async with Scripted(answer=healthy) as upstream, gateway(**blocks(upstream.url)) as gp:
        *_, step = await steps_at(f"http://127.0.0.1:{gp.port}/v1", None)
    assert (step.hop, step.what, step.outcome) == ("client", "models", StepOutcome.FAILS)
    assert step.why.startswith("401: ")
    assert step.advice.startswith("Set GATEPASS_KEY to a key that")


async def test_a_model_that_is_not_listed_fails_with_the_nearest_one_unless_it_is_called():
    async with Scripted(answer=healthy) as upstream, gateway(**blocks(upstream.url)) as gp:
        *_, step = await steps_at(f"http://127.0.0.1:{gp.port}/v1", model="gpt-4")
        called = await steps_at(f"http://127.0.0.1:{gp.port}/v1", model="gpt-4", call=True)
    assert (step.outcome, step.why) == (
        StepOutcome.FAILS,
        "the list has no model gpt-4; did you mean gpt-4o? There is gpt-4o, bge-m3, bge-reranker",
    )
    assert next(step.outcome for step in called if step.what == "models") is StepOutcome.UNPROVEN


async def test_server_that_is_not_gatepass_is_reported():
    async with Scripted([Send(reply(b"<html>portal</html>", content_type="text/html"))]) as other:
        *_, step = await steps_at(f"{other.url}/v1")
    assert (step.what, step.outcome) == ("/healthz", StepOutcome.FAILS)
    assert "it is not a page of gatepass" in step.why
    assert step.advice.startswith("Check --url")


async def test_a_certificate_that_a_laptop_does_not_trust_is_reported_with_its_variable():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with Scripted(LIST, tls=context) as server:
        *_, step = await steps_at(f"{server.url}/v1")
    assert (step.hop, step.what, step.outcome) == ("gatepass", "tls", StepOutcome.FAILS)
    assert step.advice.startswith("Set the variable SSL_CERT_FILE to a PEM file with the certificate of ")


async def test_a_port_with_tls_is_reported_for_an_http_url():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with Scripted(LIST, tls=context) as server:
        *_, step = await steps_at(f"{server.url.replace('https:', 'http:')}/v1")
    assert (step.what, step.outcome, step.advice) == ("/healthz", StepOutcome.FAILS, "Begin --url with https://.")
    assert "speaks TLS on this port" in step.why


async def test_the_list_for_ragflow_names_models_as_an_administrator_enters_them():
    async with Scripted([Send(reply({"data": []}))]) as upstream:
        models = {"corp-vectors": {"upstream": "chat", "capabilities": {"kind": "embedding"}}}
        async with gateway(**blocks(upstream.url, models=models)) as gp:
            url = f"http://127.0.0.1:{gp.port}/for/ragflow/v1"
            for name in ("corp-vectors", "corp-vectors___embedding"):
                assert (await steps_at(url, model=name))[-1].outcome is StepOutcome.WORKS
            *_, other = await steps_at(url, model="corp-vector")
    assert other.why == "the list has no model corp-vector; did you mean corp-vectors? There is corp-vectors"


async def test_the_command_reads_the_key_from_the_environment_and_never_from_its_arguments(monkeypatch):
    monkeypatch.setenv("GATEPASS_KEY", KEY)
    async with Scripted(answer=healthy) as upstream, gateway(**blocks(upstream.url)) as gp:
        url = f"http://127.0.0.1:{gp.port}/v1"

        def run(*arguments: str, **options: Any) -> Result:
            return CliRunner().invoke(main, ["doctor", "--url", url, *arguments], **options)

        result = await asyncio.to_thread(run, "--json")
        document = json.loads(result.stdout)
        assert (result.exit_code, document["exit_code"]) == (0, 0), result.output
        assert document["steps"][-1]["what"] == "models"
        assert KEY not in result.output
        monkeypatch.delenv("GATEPASS_KEY")
        assert (await asyncio.to_thread(run, "--key-stdin", input=f"{KEY}\n")).exit_code == 0
        assert (await asyncio.to_thread(run)).exit_code == 1


async def test_a_server_that_quotes_the_key_shows_it_in_no_command(monkeypatch):
    monkeypatch.setenv("GATEPASS_KEY", KEY)

    def quoting(request: Received) -> Dialogue:
        if request.target in ("/healthz", "/readyz"):
            return [Send(reply({"status": "ok", "ready": True}))]
        said = f"{'.' * 301} {request.header('authorization')} {request.header('authorization')}"
        quoted = f"{said} {b64encode(said.encode()).decode()}"
        return [Send(reply({"error": {"message": quoted, "code": "c"}}, 401))]

    async with Scripted(answer=quoting) as server:
        result = await asyncio.to_thread(
            CliRunner().invoke, main, ["doctor", "m", "--call", "--json", "--url", f"{server.url}/v1"]
        )
    assert result.exit_code == 1
    assert "***" in result.output
    assert KEY[:12] not in result.output
    assert not any(b64encode(KEY.encode())[at : at + 12].decode() in result.output for at in range(4, 24, 4))
