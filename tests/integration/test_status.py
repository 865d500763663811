"""/status over sockets: protocols over chats, silent streams, keys, and tokens that an upstream rejects."""

import json
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
import pytest

from gatepass.cli.control import status_lines
from gatepass.cli.story_lines import error_lines
from gatepass.config.access import hash_key, moment_text
from gatepass.documents import Status
from gatepass.observability.story import story_of
from gatepass.server.pages import forget_rules
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, Gateway, gateway, relaying
from tests.integration.issuer import corp, minted, renewing
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send, event, head, reply
from tests.unit.clock import DrivenClock
from tests.waiting import until

KEY = "gp-a-key-that-opens-the-door"
LOCKED = {"keys": [{"name": "ragflow", "hash": hash_key(KEY), "role": "admin"}]}
GOOD = [Send(reply(COMPLETION))]


async def status(gp: Gateway, **headers: str):
    return await gp.ask(None, "/status", method="GET", headers=headers).answer()


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

    async with relaying(answer=answer, chat=declared) as (_, gp):
        assert (await status(gp)).json()["upstreams"]["chat"]["over_chat"] == before
        for _ in range(3):
            await gp.ask({"model": "m", "input": "hi"}, "/v1/responses").answer()
        page = msgspec.json.decode((await status(gp)).body, type=Status)
        rules = json.loads((await gp.ask(None, "/learned", method="GET").answer()).body)["rules"]
    assert [(row["adapted"], row["uses"]) for row in rules] == ([] if declared else [("protocols=chat", 3)])
    assert page.upstreams["chat"].over_chat == after
    (line,) = [line for line in status_lines(page) if line.startswith("chat ")]
    assert (f"; {' and '.join(after)} are served by chats " in line) == bool(after)


async def test_a_rule_of_two_callers_is_one_row_and_forgotten_of_both():
    keys = {name: f"gp-{name}-{name * 8}" for name in ("claude", "ragflow")}
    access = {"keys": [{"name": name, "hash": hash_key(key), "role": "admin"} for name, key in keys.items()]}
    refusal = {"error": {"message": "Unsupported parameter: 'seed'", "param": "seed", "code": "unsupported_parameter"}}

    def answer(request: Received) -> Dialogue:
        return [Send(reply(refusal, 400))] if "seed" in json.loads(request.body) else GOOD

    async with relaying(answer=answer, access=access) as (_, gp):
        for key in keys.values():
            fields = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            assert (await gp.ask({**HELLO, "seed": 7}, headers=fields).answer()).status == 200
        (row,) = (await gp.ask(None, "/learned", method="GET", headers=fields).answer()).json()["rules"]
        forgotten = forget_rules(gp.state, {name: row[name] for name in ("upstream", "model", "operation", "adapted")})
        rest = (await gp.ask(None, "/learned", method="GET", headers=fields).answer()).json()["rules"]
    assert (row["adapted"], row["callers"], row["uses"]) == ("drop=seed", ["claude", "ragflow"], 2)
    assert (row["evidence"], row["values"], row["hidden_values"]) == ("Unsupported parameter: 'seed'", [], 0)
    assert (forgotten, rest) == (2, [])


async def test_a_stream_that_is_silent_is_shown_with_its_upstream():
    clock, chunk = DrivenClock(), {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
    hung: Dialogue = [Send(head(content_type="text/event-stream") + event(chunk)), Hold()]
    asked = {"model": "m", "messages": [], "stream": True}
    async with relaying(hung, clock=clock, models={"*": {"upstream": "chat"}}) as (_, gp):
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
    what, *action = (click.unstyle(line).strip() for line in error_lines(story))
    assert what == "The upstream has sent nothing for 40 s."
    assert " ".join(action) == "What to do: Test the upstream with `gatepass doctor m --call`, or ask its owner."


async def test_the_keys_are_shown_with_their_state_and_without_their_hashes():
    clock = DrivenClock()
    ends = datetime.fromtimestamp(clock.wall() + 20 * 86_400, UTC).replace(microsecond=0)
    (key,) = LOCKED["keys"]
    keys = [{**key, "expires": ends}, {"name": "bot", "models": ["gpt-*"], "hash": hash_key("gp-another-0123456")}]
    async with gateway(upstream="http://127.0.0.1:9", clock=clock, access={"keys": keys}) as gp:
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
    own = {"id": hash_key("gp-another-0123456")[7:15], "name": "bot", "role": "caller", "models": ["gpt-*"]}
    second = {**first, **own, "expires": None, "last_used": None}
    assert [answer.json()["keys"] for answer in answers] == [
        [{**first, "state": state, "last_used": used}, {**second, "state": "valid"}]
        for state, used in zip(("valid", "expires soon"), uses, strict=True)
    ]
    assert "sha256" not in answers[0].body.decode()


async def test_an_upstream_that_rejects_a_token_which_another_accepts_is_reported_and_not_strictly_ready():
    clock = DrivenClock()
    rejecting = [Send(reply({"error": {"message": "wrong audience"}}, 401))]
    async with (
        Scripted(minted()) as issuer,
        Scripted(GOOD) as good,
        Scripted(answer=lambda _: rejecting if len(bad.received) < 4 else GOOD) as bad,
    ):
        found = corp(issuer, bad)
        found["upstreams"]["embed"] = {"base_url": f"{good.url}/v1", "credential": "corp"}
        models = {"*": {"upstream": "chat"}, "other": {"upstream": "embed"}}
        async with gateway(clock=clock, models=models, **found) as gp:
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
    clock = DrivenClock()
    async with renewing(Scripted(minted()), Scripted([Send(rejection)]), clock=clock) as gp:
        await until(lambda: all(holder.usable for holder in gp.state.holders.values()))
        await gp.ask(HELLO).answer()
        await clock.advance(12.0)
        lines = [*status_lines(msgspec.json.decode((await status(gp)).body, type=Status))]
    assert f"corp: the upstream chat rejected the token 12 s ago with {code}" in lines
    (health,) = (line for line in lines if line.startswith("chat "))
    assert f" failing for 12 s, {code} 12 s ago " in health
