"""/status shows the state of each credential."""

import json
import os
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
import pytest

from gatepass.auth.api_keys import hash_key
from gatepass.cli.control import status_lines
from gatepass.cli.story_lines import error_lines
from gatepass.config.access import moment_text
from gatepass.documents import Status
from gatepass.observability.story import story_of
from gatepass.server.cycle import ids_begin
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, Gateway, gateway, relaying
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send, event, head, reply
from tests.unit.clock import DrivenClock
from tests.waiting import until

KEY = "gp-a-key-that-opens-the-door"
LOCKED = {"keys": [{"name": "ragflow", "hash": hash_key(KEY), "role": "admin"}]}
GOOD = [Send(reply(COMPLETION))]
NOT_CAPTURED = ("until", "left_s", "model", "caller", "limit_bytes")
MINTED = [Send(reply({"access_token": "good-token-1", "expires_in": 300}))]
NO_REQUEST: dict[str, Any] = {
    "health": "unknown",
    "dialect": "openai",
    "host": "127.0.0.1:9",
    **dict.fromkeys(("requests", "errors", "in_flight", "open_connections", "requests_15m", "errors_15m"), 0),
    "silent": {},
    "over_chat": [],
    "last_failed": None,
    "many_errors": False,
    "last_error": None,
}


def blocks(issuer: Scripted, **more):
    corp = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "a-long-client-secret"}
    used = {"base_url": "http://127.0.0.1:9/v1", "credential": "corp"}
    upstreams = {"chat": used, "embed": used, "open": {"base_url": "http://127.0.0.1:9/v1"}}
    return {"credentials": {"corp": corp, **more}, "upstreams": upstreams, "models": {"*": {"upstream": "chat"}}}


async def status(gp: Gateway, **headers: str):
    return await gp.ask(None, "/status", method="GET", headers=headers).answer()


async def test_a_credential_is_reported_with_its_state_and_its_upstreams():
    clock = DrivenClock()
    spare = {"type": "static", "token": "a-key-of-its-own"}
    async with Scripted(MINTED) as issuer, gateway(clock=clock, **blocks(issuer, spare=spare)) as gp:
        await until(lambda: all(holder.usable for holder in gp.state.holders.values()))
        await clock.advance(100.0)
        answer = await status(gp)
    document = answer.json()
    next_try_in_s = document["credentials"]["corp"].pop("next_try_in_s")
    assert 125.0 <= next_try_in_s <= 140.0
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    for name in ("corp", "spare"):
        (renewal,) = document["credentials"][name].pop("renewals")
        assert (renewal["ok"], renewal["reason"], document["at"] - renewal["at"]) == (True, None, pytest.approx(100.0))
    del document["at"]
    assert document == {
        "ready": True,
        "draining": False,
        "in_flight": 0,
        "replica": os.uname().nodename,
        "ids_begin": ids_begin(os.uname().nodename),
        "reload_problems": [],
        "upstreams": {
            name: {**NO_REQUEST, "credential": credential}
            for name, credential in (("chat", "corp"), ("embed", "corp"), ("open", None))
        },
        "capture": {"running": False, "held_bytes": 0, "captured": 0, **dict.fromkeys(NOT_CAPTURED)},
        "store": None,
        "keys": [],
        "credentials": {
            "corp": {
                "type": "oauth2",
                "upstreams": ["chat", "embed"],
                "rejected_by": {},
                "needs_restart": False,
                "state": "fresh",
                "kind": "opaque",
                "lifetime_source": "reply",
                "age_s": 100.0,
                "expires_in_s": 195.0,
                "fetches": 1,
                "failures": 0,
                "last_error": None,
                "last_error_age_s": None,
                "failing": False,
                "failing_since": None,
                "refreshing": False,
            },
            "spare": {
                "type": "static",
                "upstreams": [],
                "rejected_by": {},
                "needs_restart": False,
                "state": "fresh",
                "kind": "key",
                "lifetime_source": "none",
                "age_s": 100.0,
                "expires_in_s": None,
                "fetches": 1,
                "failures": 0,
                "last_error": None,
                "last_error_age_s": None,
                "failing": False,
                "failing_since": None,
                "refreshing": False,
                "next_try_in_s": None,
            },
        },
    }
    assert "good-token-1" not in answer.body.decode()


async def test_status_answers_while_the_issuer_hangs():
    async with Scripted(answer=lambda _: [Send(b"")]) as issuer, gateway(**blocks(issuer)) as gp:
        await issuer.requested()
        corp = (await status(gp)).json()["credentials"]["corp"]
    assert (corp["state"], corp["refreshing"]) == ("none", True)


@pytest.mark.parametrize(
    ("declared", "before", "after"),
    [
        ({}, [], ["responses"]),
        ({"protocols": ["chat"]}, ["responses", "messages"], ["responses", "messages"]),
        ({"protocols": ["chat", "responses"]}, ["messages"], ["messages"]),
        ({"protocols": ["responses"]}, [], []),
    ],
)
async def test_what_chats_serve_is_shown_with_its_upstream(declared: Any, before: list[str], after: list[str]):
    def answer(request: Received) -> Dialogue:
        is_chat = request.target == "/v1/chat/completions"
        return GOOD if is_chat else [Send(reply({"detail": "Not Found"}, 404))]

    async with (
        Scripted(answer=answer) as upstream,
        gateway(upstreams={"chat": {"base_url": f"{upstream.url}/v1", **declared}}) as gp,
    ):
        assert (await status(gp)).json()["upstreams"]["chat"]["over_chat"] == before
        for _ in range(3):
            await gp.ask({"model": "m", "input": "hi"}, "/v1/responses").answer()
        page = msgspec.json.decode((await status(gp)).body, type=Status)
        rules = json.loads((await gp.ask(None, "/learned", method="GET").answer()).body)["rules"]
    assert [(row["adapted"], row["uses"]) for row in rules] == ([] if declared else [("protocols=chat", 3)])
    assert page.upstreams["chat"].over_chat == after
    (line,) = [line for line in status_lines(page) if line.startswith("chat ")]
    assert (f"; {' and '.join(after)} are served by chats " in line) == bool(after)


async def test_a_stream_that_is_silent_is_shown_with_its_upstream():
    clock, chunk = DrivenClock(), {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
    hung: Dialogue = [Send(head(content_type="text/event-stream") + event(chunk)), Hold()]
    async with Scripted(hung) as upstream:
        config: dict[str, Any] = {
            "upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}},
            "models": {"*": {"upstream": "chat"}},
        }
        asked = {"model": "m", "messages": [], "stream": True}
        async with gateway(clock=clock, **config) as gp:
            async with gp.ask(asked) as ask:
                await ask.head()
                await ask.until(b"data: ")
                (running,) = gp.state.in_flight.requests
                request = running.response.context.access.id
                for advance_s, silent in ((30.0, {}), (10.0, {request: 40.0})):
                    await clock.advance(advance_s)
                    page = msgspec.json.decode((await status(gp)).body, type=Status)
                    assert page.upstreams["chat"].silent == silent
            await until(lambda: not gp.state.in_flight.busy)
            (ended,) = gp.state.inspector.newest()
            story = story_of(ended, clock.now(), clock.wall(), str)
    lines = [" ".join(line.split()) for line in status_lines(page)]
    assert f"chat answering, 1 stream silent for 40 s - gatepass show {request}" in lines
    assert (story.outcome, story.closed_by) == ("client_gone", "client")
    what, action = (click.unstyle(line).strip() for line in error_lines(story))
    assert what == "The upstream had sent nothing for 40 s when the client left."
    assert action == "What to do: Test it with `gatepass doctor m --call`."


async def test_the_keys_are_shown_with_their_state_and_without_their_hashes():
    clock = DrivenClock()
    ends = datetime.fromtimestamp(clock.wall() + 20 * 86_400, UTC).replace(microsecond=0)
    (key,) = LOCKED["keys"]
    keys = [{**key, "expires": ends}, {"name": "bot", "models": ["gpt-*"], "hash": hash_key("gp-another-0123456")}]
    async with Scripted(MINTED) as issuer, gateway(clock=clock, access={"keys": keys}, **blocks(issuer)) as gp:
        answers, uses = [], []
        for days in (0, 7):
            clock.jump_wall(days * 86_400)
            uses.append(moment_text(datetime.fromtimestamp(clock.wall(), UTC)))
            answers.append(await status(gp, authorization=f"Bearer {KEY}"))
    first = {
        "id": hash_key(KEY)[7:15],
        "name": "ragflow",
        "role": "admin",
        "profile": "plain",
        "expires": ends.isoformat().replace("+00:00", "Z"),
        "models": None,
        "operations": None,
        "mcp": None,
    }
    second = {
        "id": hash_key("gp-another-0123456")[7:15],
        "name": "bot",
        "role": "caller",
        "profile": "plain",
        "expires": None,
        "models": ["gpt-*"],
        "operations": None,
        "mcp": None,
        "last_used": None,
    }
    assert [answer.json()["keys"] for answer in answers] == [
        [{**first, "state": state, "last_used": used}, {**second, "state": "valid"}]
        for state, used in zip(("valid", "expires soon"), uses, strict=True)
    ]
    assert "sha256" not in answers[0].body.decode()


async def test_an_upstream_that_rejects_a_token_which_another_accepts_is_reported_and_not_strictly_ready():
    clock, token = DrivenClock(), Send(reply({"access_token": "good-token-1", "expires_in": 300}))
    rejecting = [Send(reply({"error": {"message": "wrong audience"}}, 401))]
    async with (
        Scripted(answer=lambda _: [token]) as issuer,
        Scripted(GOOD) as good,
        Scripted(answer=lambda _: rejecting if len(bad.received) < 4 else GOOD) as bad,
    ):
        found = blocks(issuer)
        found["upstreams"] = {
            name: {"base_url": f"{one.url}/v1", "credential": "corp"} for name, one in (("chat", bad), ("embed", good))
        }
        found["models"]["other"] = {"upstream": "embed"}
        async with gateway(clock=clock, **found) as gp:
            await until(lambda: all(holder.usable for holder in gp.state.holders.values()))

            async def asked(model: str) -> int:
                return (await gp.ask({**HELLO, "model": model}).answer()).status

            async def shown(path: str) -> int:
                return (await gp.ask(None, path, method="GET").answer()).status

            async def rejected_by() -> object:
                return (await status(gp)).json()["credentials"]["corp"]["rejected_by"]

            assert (await asked("other"), await shown("/readyz?strict")) == (200, 200)
            assert await asked("m") == 401
            assert await asked("other") == 200
            assert await rejected_by() == {"chat": 0.0}
            exposition = (await gp.ask(None, "/metrics", method="GET").answer()).body.decode()
            assert 'gatepass_upstream_rejects_token{upstream="chat"} 1.0' in exposition
            assert 'gatepass_upstream_rejects_token{upstream="embed"} 0.0' in exposition
            assert (await shown("/readyz"), await shown("/readyz?strict")) == (200, 503)
            await clock.advance(30.0)
            assert await rejected_by() == {"chat": 30.0}
            await clock.advance(31.0)
            # without requests nothing would end it
            assert (await rejected_by(), await shown("/readyz?strict")) == ({"chat": 61.0}, 200)
            while await asked("m") != 200:
                pass
            assert await rejected_by() == {}


@pytest.mark.parametrize(
    ("rejection", "code"),
    [
        (reply(b"<html><title>Sign in</title>", content_type="text/html"), "upstream_html"),
        (reply(b"<html><title>SSO</title><form><input type=password>", 403, content_type="text/html"), "upstream_html"),
        (reply({"error": {"message": "expired", "code": "invalid_token"}}, 401), "upstream_auth"),
    ],
)
async def test_a_rejected_token_is_shown_with_its_code_and_its_age(rejection: bytes, code: str):
    clock, token = DrivenClock(), Send(reply({"access_token": "good-token-1", "expires_in": 300}))
    async with (
        Scripted(answer=lambda _: [token]) as issuer,
        Scripted(answer=lambda _: [Send(rejection)]) as upstream,
    ):
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "credential": "corp"}}
        async with gateway(clock=clock, **{**blocks(issuer), "upstreams": upstreams}) as gp:
            await until(lambda: all(holder.usable for holder in gp.state.holders.values()))
            await gp.ask(HELLO).answer()
            await clock.advance(12.0)
            lines = [*status_lines(msgspec.json.decode((await status(gp)).body, type=Status))]
    assert f"corp: the upstream chat rejected the token 12 s ago with {code}" in lines
    (health,) = (line for line in lines if line.startswith("chat "))
    assert f" failing for 12 s, {code} 12 s ago " in health


async def test_an_upstream_that_fails_now_is_reported_with_its_last_error():
    """Unlike one that rejects requests of its clients: tests/unit/observability/test_traffic.py has each kind."""
    down = [Send(reply({"error": "down"}, 503))]
    async with relaying(down) as (_, gp):
        for _ in range(2):
            await gp.ask().answer()
            await until(lambda: not gp.state.in_flight.busy)
        (shown,) = (await status(gp)).json()["upstreams"].values()
        newest, _ = gp.state.inspector.newest()
    failed, error = shown.pop("last_failed"), shown.pop("last_error")
    expected = {"health": "failing", "requests": 2, "errors": 2, "requests_15m": 2, "errors_15m": 2}
    assert expected.items() <= shown.items()
    assert (shown["silent"], shown["over_chat"], shown["many_errors"]) == ({}, [], False)
    assert error.items() <= failed.items()
    assert (error["id"], error["age_s"] >= 0) == (newest.access.id, True)
    assert (failed["code"], failed["in_a_row"], failed["test"]) == ("upstream_error", 2, "gatepass doctor m --call")
    assert failed["for_s"] > failed["age_s"]
