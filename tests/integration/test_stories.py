"""What the story of a request says of its attempts, over real sockets."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from gatepass.documents import Summary
from gatepass.observability.story import matches
from gatepass.server import connection
from gatepass.server.inspection import told
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, JSON, STREAMED, Gateway, gateway, relaying
from tests.integration.issuer import corp, minted
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Hold,
    Received,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    event,
    reply,
)
from tests.unit.clock import DrivenClock
from tests.waiting import until

FIRST = event({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
PNG = "iVBORw0KGgoAAAANSUhEUgAA"
NAMED = {**JSON, "x-request-id": "asked"}


def story(gp: Gateway, name: str = "asked") -> dict[str, Any]:
    ((shown, _),) = told(name, gp.state)
    found: dict[str, Any] = msgspec.to_builtins(shown)
    return found


def attempts(shown: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(one[name] for name in names) for one in shown["attempts"]]


OWN_CODES = {
    "page": (reply(b"<html><title>Forbidden</title></html>", 403, content_type="text/html"), "upstream_html"),
    "invented": (reply({"error": {"message": "no", "code": "content_policy"}}, 403), "upstream_error"),
    "nocode": (reply({"error": {"message": "no"}}, 403), "upstream_error"),
    "gatepass": (reply({"error": {"message": "no", "code": "model_not_found"}}, 404), "upstream_error"),
    "timeout": (reply({"error": {"message": "no", "code": "upstream_timeout_42"}}, 404), "upstream_error"),
    "another": (reply({"error": {"message": "no", "code": "token_unavailable"}}, 503), "upstream_error"),
}


async def test_one_failure_has_one_code_in_the_response_the_story_and_the_attempt_and_one_label():
    dialogues: list[Dialogue] = [[Send(data)] for data, _ in OWN_CODES.values()]
    async with relaying(*dialogues) as (_, gp):
        for name, (_, label) in OWN_CODES.items():
            before = gp.state.metrics.totals().by_code
            code = (await gp.ask(headers={**JSON, "x-request-id": name}).answer()).error["code"]
            shown = story(gp, name)
            assert gp.state.metrics.totals().by_code[code] == (before.get(code, (0,))[0] + 1,), name
            assert f'code="{label}"' in gp.state.metrics.exposition().decode(), name
            assert [shown["error"]["code"], shown["code"], shown["attempts"][0]["code"]] == [code] * 3, name
            assert shown["error"]["kind"] == label, name
            assert matches(msgspec.convert({**shown, "attempts": 1}, Summary), {"kind": label}), name
            assert shown["attempts"][0]["reached"], name


ANSWERS_UNTIL_THE_TIMEOUT: dict[str, tuple[str, Dialogue]] = {
    "no head": ("chat", [Hold()]),
    "no body": (
        "chat",
        [Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"), Hold()],
    ),
    "no event": ("stream", [*begin_stream(), Hold()]),
    "no part": ("embeddings", [Hold()]),
}


@pytest.mark.parametrize("name", ANSWERS_UNTIL_THE_TIMEOUT)
async def test_the_wait_that_the_timeout_of_a_request_ends_is_that_of_the_upstream(name):
    kind, answer = ANSWERS_UNTIL_THE_TIMEOUT[name]
    clock = DrivenClock()
    async with relaying(
        answer, chat={"timeouts": {"total_s": 3}}, clock=clock, operations={"embeddings": {"rules": {"split": 1}}}
    ) as (upstream, gp):
        if kind == "embeddings":
            asked = gp.ask({"model": "m", "input": ["a", "b"]}, "/v1/embeddings", headers=NAMED)
        else:
            asked = gp.ask(body=STREAMED if kind == "stream" else HELLO, headers=NAMED)
        answering = asyncio.create_task(asked.answer())
        await until(lambda: bool(upstream.received))
        await clock.advance(3)
        assert (await answering).error["code"] == "upstream_timeout_total"
        timings = story(gp)["timings"]
    assert (timings["upstream_s"], timings["added_s"]) == (3.0, 0.0)


async def test_a_renewed_token_is_another_age_in_the_second_attempt():
    clock = DrivenClock()

    def answer(request: Received) -> list[Send]:
        is_good = request.header("authorization") == "Bearer token-2"
        refusal = reply({"error": {"message": "no token-1 here"}}, 401)
        return [Send(reply(COMPLETION) if is_good else refusal)]

    issuer, upstream = Scripted(minted("token-1"), minted("token-2")), Scripted(answer=answer)
    async with issuer, upstream, gateway(**corp(issuer, upstream), clock=clock) as gp:
        await issuer.requested()
        await until(lambda: gp.state.holders["corp"].current() is not None)
        await clock.advance(83.0)
        assert (await gp.ask(headers=NAMED).answer()).status == 200
        shown = story(gp)
    assert attempts(shown, "outcome", "cause", "token") == [
        (
            "token_rejected",
            None,
            {"credential": "corp", "age_s": 83.0, "left_s": 217.0, "wait_s": 0.0, "renewal_s": 0.0},
        ),
        (
            "complete",
            "new_token",
            {"credential": "corp", "age_s": 0.0, "left_s": 300.0, "wait_s": 0.0, "renewal_s": 0.0},
        ),
    ]
    first, second = shown["attempts"]
    assert first["reason"].endswith("no *** here")
    assert "token-1" not in json.dumps(shown)
    assert second["reason"] is None
    assert first["connect_s"] is not None
    assert first["connect_s"] >= 0
    assert second["connect_s"] is None  # the connection was open
    assert shown["closed_by"] == "upstream"


async def test_a_story_says_what_kept_a_request_away_from_the_other_targets():
    async with Scripted([Send(reply(COMPLETION))] * 2) as upstream:
        upstreams = {"a": {"base_url": "http://127.0.0.1:9/v1"}, "b": {"base_url": f"{upstream.url}/v1"}}
        targets = [{"upstream": "a"}, {"upstream": "b"}, {"upstream": "b", "name": "m2"}]
        model = {"targets": targets, "breaker": {"failures": 1}}
        async with gateway(upstreams=upstreams, models={"m": model}) as gp:
            assert (await gp.ask(headers=JSON).answer()).status == 200
            gp.state.upstreams["b"].state.healths["m2"].limit(gp.state.clock.now(), 60.0)
            assert (await gp.ask(headers=NAMED).answer()).status == 200
            shown = story(gp)
    assert shown["not_tried"] == [
        {"upstream": "a", "model": "m", "state": "ejected"},
        {"upstream": "b", "model": "m2", "state": "waits"},
    ]


async def test_gatepass_closes_the_connection_of_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "STALL_S", 0.2)
    many = FIRST * 20_000
    dialogue = [*begin_stream(), *(Send(chunk(many)) for _ in range(20)), Hold()]
    async with relaying(dialogue) as (_, gp):
        async with gp.ask(STREAMED, headers=NAMED) as ask:
            await ask.head()
            await until(lambda: story(gp)["state"] == "ended")
        shown = story(gp)
    assert (shown["outcome"], shown["closed_by"]) == ("client_gone", "gatepass")


async def test_a_timeout_and_a_wait_for_a_connection_are_of_gatepass():
    dialogue = [*begin_stream(), Send(chunk(FIRST)), Hold()]
    async with (
        relaying(dialogue, chat={"max_connections": 1, "timeouts": {"connect_s": 0.2, "idle_s": 0.5}}) as (_, gp),
        gp.ask(STREAMED, headers=NAMED) as ask,
    ):
        await ask.head()
        assert (await gp.ask(headers={**JSON, "x-request-id": "late"}).answer()).status == 503
        await ask.answer()
        late, shown = story(gp, "late"), story(gp)
    assert (late["closed_by"], attempts(late, "outcome", "connect_s")) == ("gatepass", [("nothing_written", None)])
    assert late["attempts"][0]["pool_wait_s"] > 0.1
    assert (shown["closed_by"], attempts(shown, "outcome")) == ("gatepass", [("timed_out",)])


async def test_each_rule_says_what_it_changed_and_where():
    refusal = reply({"error": {"message": "Unsupported parameter: 'seed'.", "param": "seed"}}, 400)
    dialogues = ([Send(refusal)], [Send(reply(COMPLETION))])
    models = {"m": {"upstream": "chat", "rules": {"rename": {"max_tokens": "max_completion_tokens"}}}}
    secret = "the-value-of-a-member"
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": secret, "images": [PNG]}],
        "max_tokens": 5,
        "seed": 4711,
    }
    async with relaying(*dialogues, models=models) as (_, gp):
        assert (await gp.ask(body, headers=NAMED).answer()).status == 200
        shown = story(gp)
    first, second = (
        [(one["rule"], one["path"], one["moved_to"]) for one in each["edits"]] for each in shown["attempts"]
    )
    assert first == [
        ("images=1", "messages[0].images", None),
        ("images=1", "messages[0].content", None),
        ("images=1", "messages[0].images[0]", "messages[0].content[1]"),
        ("rename=max_tokens>max_completion_tokens", "max_tokens", "max_completion_tokens"),
    ]
    assert second == [*first, ("drop=seed", "seed", None)]
    assert shown["attempts"][1]["edits"][-1] == {
        "rule": "drop=seed",
        "path": "seed",
        "before": {"type": "number", "size_bytes": 4, "value": "4711"},
        "after": None,
        "moved_to": None,
    }
    assert secret not in json.dumps(shown)
    assert PNG not in json.dumps(shown)


async def test_a_gap_in_a_stream_is_in_its_timeline():
    goes_on = asyncio.Event()
    clock = DrivenClock()
    end = event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + event("[DONE]")
    dialogue = [*begin_stream(), Send(chunk(FIRST)), Wait(goes_on), Send(chunk(FIRST)), Send(chunk(end) + LAST_CHUNK)]
    async with relaying(dialogue, clock=clock) as (_, gp):
        async with gp.ask(STREAMED, headers=NAMED) as ask:
            await ask.head()
            await ask.until(b"data:")
            await clock.advance(7.0)
            goes_on.set()
            assert (await ask.answer()).whole
        shown = story(gp)
    arrivals = shown["attempts"][0]["arrivals"]
    assert arrivals["reads"] == sum(arrivals["counts"]) >= 2
    assert (arrivals["first_s"], arrivals["last_s"]) == (0.0, 7.0)
    assert arrivals["gaps"] == [{"at_s": 0.0, "length_s": 7.0}]
    assert shown["attempts"][0]["client_wait_s"] == 0.0


async def test_a_whole_reply_has_no_timeline():
    dialogues = ([Send(reply(COMPLETION))], [Send(reply(COMPLETION))])
    async with relaying(*dialogues) as (_, gp):
        assert (await gp.ask(headers=NAMED).answer()).status == 200
        assert (await gp.ask(STREAMED, headers={**JSON, "x-request-id": "made"}).answer()).status == 200
        assert [one["attempts"][0]["arrivals"] for one in (story(gp), story(gp, "made"))] == [None, None]


async def test_a_client_that_reads_slowly_is_seen():
    goes_on = asyncio.Event()
    end = event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + event("[DONE]")
    many = Send(chunk(FIRST * 20_000))
    dialogue = [*begin_stream(), *[many] * 10, Wait(goes_on), Send(chunk(end) + LAST_CHUNK)]
    clock = DrivenClock()
    async with relaying(dialogue, clock=clock) as (_, gp):
        async with gp.ask(STREAMED, headers=NAMED) as ask:
            await until(lambda: len(gp.state.in_flight.held.stalled) > 0)
            await clock.advance(5.0)
            goes_on.set()
            assert (await ask.answer()).whole
        shown = story(gp)
    assert shown["attempts"][0]["client_wait_s"] == 5.0
