"""Limits of use on sockets: what is refused, what a client reads, and what each request counts in the end."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from gatepass.config.access import hash_key
from gatepass.config.model import Config
from gatepass.policy.limits import CONCURRENT, REQUESTS, TOKENS, Subjects
from gatepass.proxy.admission import Size
from gatepass.proxy.app_state import AppState, create_app_state, next_app_state
from gatepass.proxy.body_threads import INLINE_BYTES
from gatepass.server.inspection import limits_of, stories
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import CHAT, HELLO, JSON, Answer, Gateway, gateway, serving
from tests.integration.scripted import (
    Dialogue,
    Fin,
    Hold,
    Received,
    Rst,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    event,
    reply,
    stream,
)
from tests.unit.clock import DrivenClock
from tests.unit.normalize.calls import a_call
from tests.unit.sse.responses import message, part, response
from tests.waiting import until

KEYS = {name: f"gp-{name}-0123456789abcdef" for name in ("ana", "ben")}
GOOD: Dialogue = [Send(reply(COMPLETION))]
EMBEDDINGS, MESSAGES, BATCHES, RESPONSES = "/v1/embeddings", "/v1/messages", "/v1/batches", "/v1/responses"


def access(limits: Any = None, group: Any = None, **more: Any) -> dict[str, Any]:
    """The callers ana and ben, both of the group `all` if that has limits."""
    own = {"limits": limits} if limits else {}
    keys = [{"name": name, "hash": hash_key(key), **own, **more} for name, key in KEYS.items()]
    if not group:
        return {"keys": keys}
    return {"keys": [{**key, "group": "all"} for key in keys], "groups": {"all": {"limits": group}}}


@asynccontextmanager
async def limited(answer: Any, **blocks: Any) -> AsyncIterator[tuple[Gateway, Scripted]]:
    """gatepass over an upstream with this dialogue, or this function of the request."""
    scripted = Scripted(answer=answer) if callable(answer) else Scripted(answer)
    async with scripted as upstream, gateway(upstream=upstream.url, **blocks) as gp:
        yield gp, upstream


def by(name: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {KEYS[name]}"}


async def ask(gp: Gateway, body: Any = HELLO, path: str = "/v1/chat/completions", name: str = "ana") -> Answer:
    return await gp.ask(body, path, headers=by(name)).answer()


def used(state: AppState, unit: str = TOKENS) -> list[int]:
    assert state.admission is not None
    return [limit.used(state.clock.now()) for limit in state.admission.all_limits() if limit.unit == unit]


async def settled(gp: Gateway, tokens: list[int]) -> None:
    """Wait until gatepass has ended the requests whose responses were read, which then count `tokens`."""
    await until(lambda: not gp.state.in_flight.busy)
    assert used(gp.state) == tokens


async def test_requests_beyond_the_limit_get_429_until_the_window_has_room():
    clock = DrivenClock()
    async with limited(GOOD, clock=clock, access=access({"requests": {"minute": 2}})) as (gp, upstream):
        answers = [await ask(gp) for _ in range(3)]
        other = await ask(gp, name="ben")
        assert [one.status for one in answers] == [200, 200, 429]
        assert other.status == 200
        refused = answers[2]
        assert (refused.error["code"], refused.error["type"]) == ("limit_reached", "rate_limit_error")
        assert refused.error["message"] == (
            "The caller 'ana' has used its limit of 2 requests per minute (access.keys[].limits.requests.minute)."
            " Retry in 60 s."
        )
        assert (refused.headers["retry-after"], refused.headers["ratelimit"].rpartition("t=")[2]) == ("60", "60")
        assert len(upstream.received) == 3
        clock.suspend(60.0)
        again = await ask(gp)
        assert (again.status, again.headers["retry-after"]) == (429, "5")
        clock.suspend(5.0)
        assert (await ask(gp)).status == 200


@pytest.mark.parametrize(
    ("subject", "unit", "path"),
    [("key", "tokens", CHAT), ("group", "requests", MESSAGES), ("model", "tokens", RESPONSES)],
)
async def test_a_limit_of_a_minute_asks_for_a_wait_that_every_sdk_obeys(subject, unit, path):
    limits = {unit: {"minute": {"requests": 1, "tokens": 1_100}[unit]}}
    places: dict[str, dict[str, Any]] = {
        "key": {"access": access(limits)},
        "group": {"access": access(group=limits)},
        "model": {"access": access(), "models": {"m": {"upstream": "chat", "limits": limits}}},
    }
    answer = {CHAT: COMPLETION, MESSAGES: MESSAGE, RESPONSES: response(message(part("Hi")))}[path]
    sent = {"model": "m", "input": "Hi"} if path == RESPONSES else HELLO
    body = {**sent, "max_tokens": 1_000, "max_output_tokens": 1_000}
    used_up = {
        **answer,
        "usage": {"input_tokens": 1_000, "output_tokens": 0, "prompt_tokens": 1_000, "total_tokens": 1_000},
    }
    async with limited([Send(reply(used_up))], clock=DrivenClock(), **places[subject]) as (gp, _):
        assert (await ask(gp, body, path)).status == 200
        refused = await ask(gp, body, path)
        assert (refused.status, refused.headers["retry-after"]) == (429, "60")
        assert "x-should-retry" not in refused.headers


async def test_the_wait_of_an_upstream_passes_as_it_is_and_that_of_its_quota_is_ours():
    answers = iter([Send(reply(COMPLETION)), Send(reply({"error": {"message": "no"}}, 429, **{"retry-after": "65"}))])
    async with Scripted(answer=lambda _: [next(answers)]) as upstream:
        upstreams = {"a": {"base_url": upstream.url, "limits": {"requests": {"minute": 2}}}}
        async with gateway(upstreams=upstreams, clock=DrivenClock()) as gp:
            waits = [(await gp.ask().answer()).headers.get("retry-after") for _ in range(3)]
    assert waits == [None, "65", "60"]


@pytest.mark.parametrize(("entry", "whose"), [("m", "The model 'm'"), ("m*", "The entry 'm*' of `models`")])
async def test_a_used_up_limit_of_a_model_names_it_and_its_setting(entry, whose):
    models = {entry: {"upstream": "chat", "limits": {"requests": {"minute": 1}}}}
    async with limited(GOOD, access=access({}), models=models) as (gp, _):
        answers = [await ask(gp) for _ in range(2)]
        (story,) = await stories(gp.state, answers[1].headers["x-request-id"], bodies=False)
    place = f"models.{entry}.limits.requests.minute"
    assert answers[1].error["message"].startswith(f"{whose} has used its limit of 1 request per minute ({place}).")
    assert story.error is not None
    assert f"`{place}`" in story.error.action
    assert f"`{place}`" in story.error.action_zh


async def test_responses_state_what_is_left_in_place_of_the_upstreams_fields():
    fields = {"x-ratelimit-limit-requests": "9", "x-ratelimit-remaining-tokens": "9", "ratelimit": '"u";r=9'}
    limits = {"requests": {"minute": 10, "day": 20}, "tokens": {"minute": 5_000}}
    async with (
        Scripted([Send(reply(COMPLETION, 200, **fields))]) as upstream,
        gateway(upstream=upstream.url, clock=DrivenClock(), access=access(limits)) as gp,
    ):
        answer = await ask(gp, {**HELLO, "max_tokens": 100})
        message = await ask(gp, {**HELLO, "max_tokens": 100}, MESSAGES)
    input_tokens = (len(json.dumps({**HELLO, "max_tokens": 100})) + 3) // 4
    assert {name: text for name, text in answer.headers.items() if "ratelimit" in name} == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "60s",
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": str(5_000 - 100 - input_tokens),
        "x-ratelimit-reset-tokens": "60s",
        "ratelimit-policy": '"caller-requests-minute";q=10;w=60, "caller-requests-day";q=20;w=86400,'
        ' "caller-tokens-minute";q=5000;w=60;qu="tokens"',
        "ratelimit": f'"caller-requests-minute";r=9;t=60, "caller-requests-day";r=19;t={16 * 3_600},'
        f' "caller-tokens-minute";r={4_900 - input_tokens};t=60',
    }
    assert message.headers["anthropic-ratelimit-requests-remaining"] == "8"
    assert message.headers["anthropic-ratelimit-tokens-limit"] == "5000"
    assert message.headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:01:00Z"


async def test_limits_of_a_day_and_a_month_end_at_midnight():
    clock = DrivenClock()  # 08:00 UTC
    limits = {"requests": {"day": 2, "month": 3}}
    async with limited(GOOD, clock=clock, access=access(limits)) as (gp, _):
        good, _, refused = [await ask(gp) for _ in range(3)]
        assert good.headers["ratelimit-policy"] == (
            '"caller-requests-day";q=2;w=86400, "caller-requests-month";q=3;w=2678400'
        )
        assert good.headers["ratelimit"] == (
            f'"caller-requests-day";r=1;t={16 * 3_600}, "caller-requests-month";r=2;t={(16 * 24 + 16) * 3_600}'
        )
        assert (refused.status, refused.headers["retry-after"]) == (429, str(16 * 3_600))
        assert (
            "limit of 2 requests per day (access.keys[].limits.requests.day). Retry in 16 h."
            in refused.error["message"]
        )
        clock.suspend(16 * 3_600)
        clock.jump_wall(16 * 3_600)
        assert [(await ask(gp)).status for _ in range(2)] == [200, 429]  # the month
        clock.jump_wall(-3_600.0)  # back into the day before
        assert (await ask(gp)).status == 429
        assert used(gp.state, REQUESTS) == [1, 3, 0, 0]


async def test_from_80_percent_of_a_day_or_month_on_replies_and_metrics_warn():
    limits = {"requests": {"minute": 4, "day": 5, "month": 100}}
    async with (
        Scripted([Send(reply(COMPLETION, 200, **{"x-gatepass-limit-warning": "of the upstream"}))]) as upstream,
        gateway(upstream=upstream.url, clock=DrivenClock(), access=access(limits)) as gp,
    ):
        answers = [await ask(gp) for _ in range(4)]
        lines = gp.state.metrics.exposition().decode().splitlines()
    warnings = [one.headers.get("x-gatepass-limit-warning") for one in answers]
    assert warnings == [None, None, None, "caller-requests-day 80%"]
    assert [line for line in lines if line.startswith("gatepass_limit_left_ratio")] == [
        'gatepass_limit_left_ratio{kind="caller",limit="requests.day",name="ana"} 0.2',
        'gatepass_limit_left_ratio{kind="caller",limit="requests.month",name="ana"} 0.96',
    ]


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": "end_turn"}
NAMED_BY: Mapping[str, tuple[str, Any, Any]] = {
    "user": ("/v1/chat/completions", None, lambda name: ({**HELLO, "user": name}, {})),
    "metadata.user_id": (MESSAGES, None, lambda name: ({**HELLO, "max_tokens": 5, "metadata": {"user_id": name}}, {})),
    "a header": ("/v1/chat/completions", "X-User", lambda name: ({**HELLO, "user": "x"}, {"x-user": name})),
}


@pytest.mark.parametrize("by_what", NAMED_BY)
async def test_each_end_user_of_a_key_has_limits_within_those_of_the_key(by_what, caplog):
    caplog.set_level(logging.DEBUG)
    path, header, made = NAMED_BY[by_what]
    end_users = {"limits": {"requests": {"minute": 2}}, **({"header": header} if header else {})}
    dialogue = [Send(reply(MESSAGE))] if path == MESSAGES else GOOD
    async with limited(
        dialogue, clock=DrivenClock(), access=access({"requests": {"minute": 6}}, end_users=end_users)
    ) as (gp, _):
        answers = []
        for name in ("zoe@corp", "zoe@corp", "zoe@corp", "yan@corp", "", "", "", "xia@corp", "yan@corp"):
            body, fields = made(name)
            answers.append(await gp.ask(body, path, headers={**by("ana"), **fields}).answer())
        rows = (await limits_of(gp.state)).limits
        shown = f"{rows}{gp.state.metrics.exposition()!r}{[one.__dict__ for one in caplog.records]}"
    assert [one.status for one in answers] == [200, 200, 429, 200, 200, 200, 429, 200, 429]
    assert "The end user of 'ana' has used its limit of 2 requests per minute" in answers[2].error["message"]
    assert "(access.keys[].end_users.limits.requests.minute)" in answers[6].error["message"]
    assert "The caller 'ana' has used its limit of 6 requests" in answers[8].error["message"]
    assert '"end_user-requests-minute";r=1' in answers[3].headers["ratelimit"]
    assert [row.used for row in rows if row.of == "end_user/ana"] == [2]
    assert "requests.minute" in shown
    assert "@corp" not in shown


@pytest.mark.parametrize("by_what", NAMED_BY)
async def test_the_end_users_that_one_key_invents_take_no_place_of_those_of_another(by_what, monkeypatch):
    monkeypatch.setattr(Subjects.__init__, "__defaults__", (8,))
    path, field, made = NAMED_BY[by_what]
    end_users = {"limits": {"requests": {"minute": 1}}, **({"header": field} if field else {})}
    dialogue = [Send(reply(MESSAGE))] if path == MESSAGES else GOOD
    async with limited(dialogue, clock=DrivenClock(), access=access(end_users=end_users)) as (gp, _):

        async def statuses(key: str, count: int) -> list[int]:
            found = []
            for number in range(count):
                body, fields = made(f"{key}-{number}")
                found.append((await gp.ask(body, path, headers={**by(key), **fields}).answer()).status)
            return found

        assert await statuses("ana", 12) == [*[200] * 9, *[429] * 3]  # 8 places, and one request of all others
        assert await statuses("ben", 4) == [200] * 4
        assert await statuses("ben", 4) == [429] * 4  # each has its own limit


async def test_an_end_user_that_the_body_does_not_name_shares_one_budget():
    limits = {"requests": {"minute": 3}}
    async with limited(GOOD, clock=DrivenClock(), access=access(end_users={"limits": limits})) as (gp, _):
        bodies: list[dict[str, Any]] = [{"user": 5}, {"user": None}, {"metadata": "x"}, {"metadata": {}}]
        statuses = [(await ask(gp, {**HELLO, **body})).status for body in bodies]
        assert (await ask(gp, {**HELLO, "user": "zoe"})).status == 200
    assert statuses == [200, 200, 200, 429]


async def test_without_a_limit_of_ours_the_fields_of_the_upstream_pass():
    fields = {"x-ratelimit-limit-requests": "9"}
    blocks: dict[str, Any] = {
        "models": {"other": {"upstream": "chat", "limits": {"requests": {"minute": 1}}}, "*": {"upstream": "chat"}}
    }
    async with limited([Send(reply(COMPLETION, 200, **fields))], **blocks) as (gp, _):
        assert (await gp.ask().answer()).headers["x-ratelimit-limit-requests"] == "9"


TOKEN_LIMIT = {"tokens": {"minute": 10_000}}
STREAMED = {**HELLO, "stream": True}
USAGE = event({"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 40, "total_tokens": 70}})


def size(body: Any) -> int:
    return (len(json.dumps(body)) + 3) // 4


def written(events: list[bytes]) -> int:
    """The tokens of these events and `[DONE]`, whose envelopes of 320 bytes count as one each."""
    return len(events) + (len(b"".join([*events, DONE])) - 320 * len(events)) // 4


LONG = [*[delta(content="word " * 500)] * 10, delta("stop")]
LONGEST = [delta(content="word " * 5_000), delta("stop")]
UNCOUNTED = {name: value for name, value in COMPLETION.items() if name != "usage"}
ENDS: Mapping[str, tuple[Dialogue, Any, int]] = {
    "the usage of a whole reply": (GOOD, HELLO, 2),
    "a usage of any size": ([Send(reply({**COMPLETION, "usage": {"total_tokens": 10**30}}))], HELLO, 2**32),
    "the usage of a stream": ([Send(stream(delta(content="hi"), delta("stop"), USAGE, DONE))], STREAMED, 70),
    "a stream without usage": ([Send(stream(delta(content="a"), delta("stop"), DONE))], STREAMED, size(STREAMED) + 2),
    "a stream of ten long events without usage": (
        [Send(stream(*LONG, DONE))],
        STREAMED,
        size(STREAMED) + written(LONG),
    ),
    "a stream of one long event": ([Send(stream(*LONGEST, DONE))], STREAMED, size(STREAMED) + written(LONGEST)),
    "a long reply without usage": ([Send(reply(UNCOUNTED))], HELLO, size(HELLO) + len(json.dumps(UNCOUNTED)) // 4),
    "a stream that was cut": (
        [*begin_stream(), Send(chunk(delta(content="a"))), Rst()],
        STREAMED,
        size(STREAMED) + 1_000,
    ),
    "an error of the upstream": ([Send(reply({"error": {"message": "no"}}, 400))], HELLO, 0),
    "a reply that never came": ([Rst()], HELLO, size(HELLO) + 1_000),
    "a reply that nobody can read": ([Send(reply(b"<html>", 200))], HELLO, size(HELLO) + 1_000),
}


UNSTATED: tuple[dict[str, Any], ...] = (
    *({}, {"x": 1}, {"completion_tokens_details": {"reasoning_tokens": 4}}, {"prompt_tokens": 5}),
    *({"total_tokens": -9_000}, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
)


@pytest.mark.parametrize("path", [CHAT, "/for/ragflow" + CHAT, "/for/dify" + CHAT])
@pytest.mark.parametrize("usage", UNSTATED)
async def test_a_usage_that_gatepass_completes_for_the_client_is_not_what_counts(path, usage):
    document = {**COMPLETION, "usage": usage}
    if not usage:
        del document["usage"]
    async with limited([Send(reply(document))], access=access(group=TOKEN_LIMIT)) as (gp, _):
        answer = await gp.ask(HELLO, path, headers=by("ana")).answer()
        await settled(gp, [size(HELLO) + len(answer.body) // 4])


@pytest.mark.parametrize("early", [{"prompt_tokens": 5, "completion_tokens": 0}, {"total_tokens": 9}])
async def test_a_usage_before_the_rest_of_the_answer_is_not_what_counts(early):
    first = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}], "usage": early})
    answer = [Send(stream(first, *[delta(content="b")] * 500, delta("stop"), DONE))]
    async with limited(answer, access=access(group=TOKEN_LIMIT)) as (gp, _):
        await ask(gp, STREAMED)
        await settled(gp, [size(STREAMED) + 502])


REPORTED = {"prompt_tokens": 100, "completion_tokens": 5_000, "total_tokens": 5_100}
CUT = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x'}}
CALLED = {"index": 0, "message": {"role": "assistant", "tool_calls": [CUT]}, "finish_reason": "tool_calls"}


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({**COMPLETION, "choices": [CALLED]}, 200),
        ({**COMPLETION, "choices": []}, 200),
        ({"code": 500, "message": "x"}, 200),
        ({"error": {"message": "too long"}}, 400),
    ],
)
async def test_a_refused_reply_counts_what_it_reports(document, status):
    answer = [Send(reply({**document, "usage": REPORTED}, status))]
    async with limited(answer, access=access(group=TOKEN_LIMIT)) as (gp, _):
        assert (await ask(gp)).status >= 400
        await settled(gp, [5_100])


@pytest.mark.parametrize("end", ENDS)
async def test_a_request_counts_what_it_used(end):
    dialogue, body, tokens = ENDS[end]
    async with limited(dialogue, access=access(group={**TOKEN_LIMIT, "max_concurrent": 1})) as (gp, _):
        await ask(gp, body)
        await settled(gp, [tokens])
        assert used(gp.state, CONCURRENT) == [0]


LARGE = "a" * INLINE_BYTES
NEVER_SENT: Mapping[str, tuple[Any, int]] = {
    "no JSON": (b'{"model": "m", "a' + LARGE.encode(), 400),
    "a model that no entry has": ({**HELLO, "model": "other", "user": LARGE}, 404),
    "a model that the key may not use": ({**HELLO, "model": "closed", "user": LARGE}, 403),
    "more tokens than are left": ({**HELLO, "user": LARGE, "max_tokens": 9_000}, 429),
    "more tokens than the limit": ({**HELLO, "user": LARGE, "max_tokens": 99_000}, 400),
    "an upstream that is down": ({**HELLO, "user": LARGE}, 502),
}


@pytest.mark.parametrize("why", NEVER_SENT)
async def test_a_large_body_counts_one_request_of_its_caller_whatever_comes_of_it(why):
    body, status = NEVER_SENT[why]
    limits = {"requests": {"minute": 3}, "tokens": {"minute": 20_000}}
    of_model = {"upstream": "chat", "limits": {"requests": {"minute": 9}}}
    async with gateway(
        upstream="http://127.0.0.1:9",
        clock=DrivenClock(),
        access=access(limits, models=["m", "other"]),
        models={"m": of_model, "closed": of_model},
    ) as gp:
        assert gp.state.admission is not None
        tokens = gp.state.admission.limits_of(("caller", "ana"))[1]
        tokens.use.add(tokens.part(gp.state.clock.now()), 10_000 * (why == "more tokens than are left"))
        answers = [await ask(gp, body) for _ in range(4)]
        small = [(await ask(gp, {**HELLO, "model": "other"}, name="ben")).status for _ in range(4)]
        await until(lambda: not gp.state.in_flight.busy)
        assert used(gp.state, REQUESTS) == [3, 0, 0, 0]
    assert [one.status for one in answers] == [status] * 3 + [429]
    assert "limit of 3 requests per minute" in answers[3].error["message"]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "2"
    assert small == [404] * 4


async def test_a_large_body_that_was_sent_counts_one_request():
    limits, of_model = {"requests": {"minute": 2}}, {"upstream": "chat", "limits": {"requests": {"minute": 9}}}
    async with limited(GOOD, access=access(limits, group=limits), models={"m": of_model}) as (gp, _):
        answers = [await ask(gp, {**HELLO, "user": LARGE}) for _ in range(3)]
        await until(lambda: not gp.state.in_flight.busy)
        assert used(gp.state, REQUESTS) == [2, 0, 2, 2]
    assert [one.status for one in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit"].count("r=1") == 2


async def test_a_request_that_never_ran_is_given_back():
    limits = {"tokens": {"minute": 10_000}, "requests": {"minute": 5}}
    async with gateway(upstream="http://127.0.0.1:9", access=access(group=limits)) as gp:
        assert (await ask(gp)).status == 502
        await settled(gp, [0])
        assert used(gp.state, REQUESTS) == [0]


async def test_the_reservation_counts_while_the_request_runs_and_an_estimate_is_logged(caplog):
    caplog.set_level(logging.INFO, "gatepass.access")
    go_on = asyncio.Event()
    first = [
        *begin_stream(),
        Send(chunk(delta(content="a"))),
        Wait(go_on),
        Send(chunk(delta("stop")) + chunk(DONE)),
        Fin(),
    ]
    async with limited(first, access=access(group=TOKEN_LIMIT)) as (gp, _):
        async with gp.ask(STREAMED, headers=by("ana")) as asked:
            await asked.head()
            await asked.until(b"a")
            assert used(gp.state) == [size(STREAMED) + 1_000]
            refused = await ask(gp, {**HELLO, "max_tokens": 9_500})
            assert "more tokens in its limit of 10000 tokens per minute" in refused.error["message"]
            assert refused.headers["x-ratelimit-remaining-tokens"] == str(10_000 - size(STREAMED) - 1_000)
            go_on.set()
            await asked.answer()
        await settled(gp, [size(STREAMED) + 2])
    lines = [record.__dict__["fields"] for record in caplog.records if record.name == "gatepass.access"]
    assert b'"tokens_estimated":%d' % (size(STREAMED) + 2) in msgspec.json.encode(lines[-1])


LEFT: Mapping[str, tuple[list[Any], int]] = {
    "less than its reservation": ([delta(content="a")], 1_000),
    "a large event": ([delta(content="a" * 6_000)], 1_440),
    "many events": ([delta(content="")] * 3, 1_000),
    "the usage so far": (
        [
            event(
                {"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": {"prompt_tokens": 5, "total_tokens": 6}}
            )
        ],
        1_000,
    ),
}


@pytest.mark.parametrize("what", LEFT)
async def test_a_stream_that_is_left_counts_its_reservation_or_what_was_relayed(what):
    events, least = LEFT[what]
    relayed = [chunk(one) for one in events]
    async with (
        Scripted([*begin_stream(), *map(Send, relayed), Hold()]) as upstream,
        gateway(upstream=upstream.url, access=access(group={**TOKEN_LIMIT, "max_concurrent": 1})) as gp,
    ):
        async with gp.ask(STREAMED, headers=by("ana")) as asked:
            await asked.head()
            await asked.until(b"choices")
            refused = await ask(gp, name="ben")
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            assert "1 concurrent request (access.groups.all.limits.max_concurrent)" in refused.error["message"]
        await until(lambda: not gp.state.in_flight.busy)
        assert size(STREAMED) + least <= used(gp.state)[0] <= size(STREAMED) + least + 100
        assert used(gp.state, CONCURRENT) == [0]


@pytest.mark.parametrize(
    ("limits", "rules", "asked"),
    [
        (TOKEN_LIMIT, {}, True),
        ({"requests": {"minute": 5}}, {}, False),
        (TOKEN_LIMIT, {"drop": ["stream_options"]}, False),
    ],
)
async def test_a_stream_is_asked_for_its_usage_where_tokens_are_limited(limits, rules, asked):
    answer = [Send(stream(delta(content="hi"), delta("stop"), USAGE, DONE))]
    models = {"*": {"upstream": "chat", "rules": {"drop": ["user"], **rules}}}
    async with limited(answer, access=access(limits), models=models) as (gp, upstream):
        shown = await ask(gp, STREAMED)
        assert ("include_usage" in upstream.received[0].body.decode()) is asked
        assert b"total_tokens" not in shown.body, "the client did not ask for it"


WRITTEN: Mapping[str, tuple[str, Any, int]] = {
    "a chat": ("/v1/chat/completions", HELLO, size(HELLO) + 1_000),
    "a stream": ("/v1/chat/completions", {**STREAMED, "max_tokens": 70}, size({**STREAMED, "max_tokens": 70}) + 70),
    "embeddings": (EMBEDDINGS, {"model": "e", "input": "x" * 400}, size({"model": "e", "input": "x" * 400})),
    "embeddings in parts": (EMBEDDINGS, {"model": "s", "input": ["x"] * 4}, size({"model": "s", "input": ["x"] * 4})),
    "a message": (MESSAGES, {**HELLO, "max_tokens": 50}, size({**HELLO, "max_tokens": 50}) + 50),
}
BOTH = {**TOKEN_LIMIT, "requests": {"minute": 5}, "max_concurrent": 5}


@asynccontextmanager
async def silent(**settings: Any) -> AsyncIterator[tuple[Gateway, Scripted]]:
    """Limits of a group and of an upstream that does not answer."""
    models = {"s": {"upstream": "chat", "rules": {"split": 2}}, "*": {"upstream": "chat"}}
    async with Scripted([Hold()]) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "limits": BOTH, **settings}}
        async with gateway(upstreams=upstreams, models=models, access=access(group=BOTH)) as gp:
            yield gp, upstream


@pytest.mark.parametrize("what", WRITTEN)
async def test_a_request_counts_from_its_first_byte_on_although_its_client_leaves(what):
    path, body, tokens = WRITTEN[what]
    async with silent() as (gp, upstream):
        for count in (1, 2):
            upstream.received.clear()
            async with gp.ask(body, path, headers=by("ana")):
                await until(lambda: upstream.received)
            await settled(gp, [count * tokens] * 2)
            sent = len(upstream.received)  # 2 for embeddings in parts
            assert (used(gp.state, REQUESTS), used(gp.state, CONCURRENT)) == ([count * sent] * 2, [0, 0])


async def test_a_request_that_waits_for_a_place_when_its_client_leaves_counts_nothing():
    async with silent(max_in_flight=1, queue=1) as (gp, upstream), gp.ask(headers=by("ana")):
        await until(lambda: upstream.received)
        async with gp.ask(headers=by("ben")):
            await until(lambda: gp.state.upstreams["chat"].state.queue.waiting)
        await until(lambda: not gp.state.upstreams["chat"].state.queue.waiting)
        await until(lambda: gp.state.in_flight.busy == 1)
        assert used(gp.state, REQUESTS) == [1, 1]


def hits(gp: Gateway) -> dict[tuple[str, ...], int]:
    """The samples of `gatepass_limit_hits_total` by kind, name and limit."""
    page = gp.state.metrics.exposition().decode()
    lines = re.findall(r'_hits_total\{kind="(.*)",limit="(.*)",name="(.*)"\} (.*)', page)
    return {(kind, name, limit): int(float(count)) for kind, limit, name, count in lines}


async def test_metrics_count_what_limits_refused():
    quota = {"requests": {"minute": 2}}
    blocks: dict[str, Any] = {
        "models": {"m": {"targets": [{"upstream": "a"}, {"upstream": "b"}], "limits": {"requests": {"minute": 9}}}},
        "access": access({"requests": {"minute": 1}}, {"tokens": {"minute": 5_000}}),
    }
    clock = DrivenClock()
    async with Scripted(GOOD) as first, Scripted(GOOD) as second:
        upstreams = {name: {"base_url": one.url, "limits": quota} for name, one in (("a", first), ("b", second))}
        upstreams["a"] = {**upstreams["a"], "limits": {"requests": {"minute": 1}}}
        async with gateway(upstreams=upstreams, clock=clock, **blocks) as gp:
            small = {**HELLO, "max_tokens": 10}
            assert (await ask(gp, small)).status == 200
            assert set(hits(gp).values()) == {0}  # Prometheus sees the first hit as an increase
            assert (await ask(gp, small)).status == 429
            assert (await ask(gp, {**HELLO, "max_tokens": 5_001}, name="ben")).status == 400
            clock.suspend(65)
            assert (await ask(gp, small, name="ben")).status == 200
            assert (await ask(gp, small)).status == 200
            assert hits(gp) == {
                ("caller", "ana", "requests.minute"): 1,
                ("caller", "ben", "requests.minute"): 0,
                ("group", "all", "tokens.minute"): 1,
                ("model", "m", "requests.minute"): 0,
                ("upstream", "a", "requests.minute"): 1,
                ("upstream", "b", "requests.minute"): 0,
            }


async def test_a_request_that_can_never_fit_is_a_400():
    async with Scripted(GOOD) as upstream, gateway(upstream=upstream.url, access=access(TOKEN_LIMIT)) as gp:
        answer = await ask(gp, {**HELLO, "max_tokens": 10_000})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", "max_tokens")
        assert "The request may use 10021 tokens, and the caller 'ana' has a limit of 10000" in answer.error["message"]
        assert upstream.received == []


def vectors(received: Received) -> Dialogue:
    inputs = json.loads(received.body)["input"]
    inputs = inputs if isinstance(inputs, list) else [inputs]
    data = [{"object": "embedding", "index": at, "embedding": [0.5]} for at in range(len(inputs))]
    return [Send(reply({"object": "list", "model": "s", "data": data, "usage": {"total_tokens": 1}}))]


FIVE = {"requests": {"minute": 5}}
OWNERS: dict[str, dict[str, Any]] = {
    "caller": {"access": access(FIVE)},
    "group": {"access": access(group=FIVE)},
    "model": {"access": access()},
    "calendar": {"access": access({"requests": {"day": 5}})},
}


@pytest.mark.parametrize("inputs", [40, INLINE_BYTES // 2], ids=["small", "read in a thread"])
@pytest.mark.parametrize("owner", OWNERS)
async def test_the_further_requests_of_a_split_call_are_a_debt_and_never_refuse_it(owner: str, inputs: int):
    size = max(2, inputs // 20)
    entry = {"upstream": "chat", "rules": {"split": size}, **({"limits": FIVE} if owner == "model" else {})}
    body, parts = {"model": "s", "input": ["x"] * inputs}, -(-inputs // size)
    clock = DrivenClock()
    async with limited(vectors, clock=clock, models={"s": entry, "*": {"upstream": "chat"}}, **OWNERS[owner]) as (
        gp,
        upstream,
    ):
        split = await ask(gp, body, EMBEDDINGS)
        await until(lambda: not gp.state.in_flight.busy)
        assert (split.status, len(upstream.received), used(gp.state, REQUESTS)[0]) == (200, parts, parts)
        next_one = {"model": "s", "input": ["x"]}
        assert [(await ask(gp, next_one, EMBEDDINGS, name)).status for name in KEYS] == [
            429,
            200 if owner in ("caller", "calendar") else 429,
        ]
        clock.suspend(65)
        if owner == "calendar":
            clock.jump_wall(86_400)
        assert (await ask(gp, next_one, EMBEDDINGS)).status == 200


async def test_parts_that_were_not_sent_and_other_refusals_are_no_debt():
    """A call that is refused whole, one that no upstream accepts in parts, and one of an end user."""

    def failing(received: Received) -> Dialogue:
        is_third = b'"2"' in received.body
        return [Send(reply({"error": {"message": "no"}}, 500))] if is_third else vectors(received)

    users = {"end_users": {"header": "x-user", "limits": FIVE}}
    models = {"s": {"upstream": "chat", "rules": {"split": 1}}}
    async with limited(failing, models=models, access=access({"requests": {"minute": 50}}, **users)) as (gp, upstream):
        failed = await ask(gp, {"model": "s", "input": ["0", "1", "2"] + ["x"] * 40}, EMBEDDINGS)
        await until(lambda: not gp.state.in_flight.busy)
        sent = len(upstream.received)
        assert (failed.status, 3 <= sent < 43) == (500, True)
        of_users, of_callers = used(gp.state, REQUESTS)[:2], used(gp.state, REQUESTS)[2:]
        assert (of_users, of_callers) == ([1, 0], [sent, 0])
        for _ in range(4):
            assert (await ask(gp, {"model": "s", "input": ["x"]}, EMBEDDINGS)).status == 200
        assert (await ask(gp, {"model": "s", "input": ["x"]}, EMBEDDINGS)).status == 429


@pytest.mark.parametrize(("limit", "most"), [(1, 2_048), (3, 6_144)])
async def test_a_call_is_sent_as_2048_requests_at_most(limit: int, most: int):
    models = {"s": {"upstream": "chat", "rules": {"split": limit}}}
    async with limited(vectors, models=models, access=access({"requests": {"minute": 5_000}})) as (gp, upstream):
        refused = await ask(gp, {"model": "s", "input": ["x"] * (most + 1)}, EMBEDDINGS)
        await until(lambda: not gp.state.in_flight.busy)
        assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "invalid_request", "input")
        noun = "1 input" if limit == 1 else f"{limit} inputs"
        assert refused.error["message"] == (
            f"The upstream 'chat' accepts {noun} at a time, so the {most + 1} inputs of this call need 2049 requests."
            f" gatepass sends at most 2048 requests for one call, with {most} inputs. Send fewer inputs in one call."
            " If the upstream accepts more inputs at a time than the message says, raise rules.split of the model."
        )
        assert (upstream.received, refused.headers["x-gatepass-hop"]) == ([], "client")
        (story,) = await stories(gp.state, refused.headers["x-request-id"], bodies=False)
        assert story.error is not None
        assert "`rules.split`" in story.error.action_zh
        sent = await ask(gp, {"model": "s", "input": ["x"] * most}, EMBEDDINGS)
    assert (sent.status, len(sent.json()["data"]), len(upstream.received)) == (200, most, 2_048)


@pytest.mark.parametrize(
    ("most", "statuses", "counted"), [(20, [200, 429], 20), (19, [400, 400], 0), (40, [200, 200], 40)]
)
async def test_an_embeddings_call_in_parts_counts_each_of_them_at_the_upstream(most, statuses, counted):
    async with Scripted(answer=vectors) as upstream:
        upstreams = {"chat": {"base_url": upstream.url, "limits": {"requests": {"minute": most}}}}
        models = {"s": {"upstream": "chat", "rules": {"split": 2}}}
        limits = {"requests": {"minute": 50}, **TOKEN_LIMIT}
        async with gateway(upstreams=upstreams, models=models, access=access(limits)) as gp:
            answers = [await ask(gp, {"model": "s", "input": ["x"] * 40}, EMBEDDINGS) for _ in range(2)]
            assert [one.status for one in answers] == statuses
            assert used(gp.state, REQUESTS) == [counted, 0, counted]
            assert used(gp.state) == [counted, 0]
    assert len(upstream.received) == counted
    if 400 in statuses:
        assert (
            "is sent as 20 requests, and the upstream 'chat' has a limit of 19 requests" in answers[0].error["message"]
        )


async def test_batches_need_to_be_named_by_the_key_if_tokens_are_limited():
    body, answers = {"input_file_id": "file-1"}, []
    for limits, more in (
        (TOKEN_LIMIT, {}),
        (TOKEN_LIMIT, {"operations": ["batches", "files"]}),
        ({"requests": {"minute": 5}}, {"operations": ["batches", "files"]}),
    ):
        async with (
            Scripted([Send(reply({"id": "batch_1"}))]) as upstream,
            gateway(
                upstream=upstream.url, access=access(limits, **more), operations={"batches": {"upstream": "chat"}}
            ) as gp,
        ):
            answers.append(await ask(gp, body, BATCHES))
    assert [one.status for one in answers] == [403, 200, 200]


async def test_an_upstream_with_a_used_up_quota_is_passed_over_and_then_refused():
    quota = {"requests": {"minute": 1}}
    async with Scripted(GOOD) as first, Scripted(GOOD) as second:
        upstreams = {name: {"base_url": one.url, "limits": quota} for name, one in (("a", first), ("b", second))}
        models = {"m": {"targets": [{"upstream": "a"}, {"upstream": "b"}]}, "one": {"upstream": "a"}}
        async with gateway(upstreams=upstreams, models=models) as gp:
            answers = [await gp.ask().answer() for _ in range(3)]
            single = await gp.ask({**HELLO, "model": "one"}).answer()
        assert [one.status for one in answers] == [200, 200, 429]
        assert (len(first.received), len(second.received)) == (1, 1)
        assert answers[2].error["code"] == single.error["code"] == "limit_reached"
        assert "The upstream 'a' has used its limit of 1 request per minute" in single.error["message"]


BROKE: Mapping[str, Dialogue] = {
    "no reply": [Rst()],
    "a reply that was cut": [Send(reply(COMPLETION)[:-9]), Rst()],
    "a page": [Send(reply(b"<html>", 200))],
}
REFUSED: Dialogue = [Send(reply({"error": {"message": "slow down"}}, 429))]


@pytest.mark.parametrize(
    ("first", "second", "tokens"),
    [
        *((one, REFUSED, size(HELLO) + 1_000) for one in BROKE.values()),
        (BROKE["a page"], GOOD, 2),
        (REFUSED, REFUSED, 0),
    ],
    ids=[*BROKE, "then a usage", "both refused"],
)
async def test_what_the_first_target_had_counts_its_reservation_until_a_usage_says_less(first, second, tokens):
    retry = {"on": ["refused", "may_have_run"], "operations": ["chat"], "attempts": 2}
    models = {"m": {"targets": [{"upstream": "a"}, {"upstream": "b"}], "retry": retry}}
    async with Scripted(first) as one, Scripted(second) as two:
        upstreams = {"a": {"base_url": one.url}, "b": {"base_url": two.url}}
        async with gateway(upstreams=upstreams, models=models, access=access(group=TOKEN_LIMIT)) as gp:
            await ask(gp)
            await settled(gp, [tokens])
        assert (len(one.received), len(two.received)) == (1, 1)


async def test_a_reload_keeps_what_was_used_and_a_lowered_limit_holds_at_once():
    async with Scripted(GOOD) as upstream:

        def config(limit: int | None) -> Config:
            limits = {} if limit is None else {"limits": {"requests": {"minute": limit}}}
            upstreams = {"chat": {"base_url": upstream.url}}
            blocks = {"upstreams": upstreams, "models": {"*": {"upstream": "chat", **limits}}}
            return Config.model_validate({"server": {"drain_timeout_s": 0}, **blocks})

        async with serving(create_app_state(config(5))) as gp:
            statuses = [(await gp.ask().answer()).status for _ in range(3)]
            for limit in (3, 4, None):
                state = gp.server.endpoint.state
                gp.server.endpoint.use(next_app_state(config(limit), state.tls_contexts, state))
                statuses += [(await gp.ask().answer()).status for _ in range(2)]
        assert statuses == [200, 200, 200, 429, 429, 200, 429, 200, 200]


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("x" * 4_000, 1_000),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}], 1_000),
        ([{"type": "image_url", "image_url": {"url": "https://h/1.png"}}] * 2, 2_000),
        ([{"type": "input_audio", "input_audio": {"data": "A" * 400_000, "format": "wav"}}], 1_000),
        ([{"type": "tool_result", "content": [{"type": "image", "source": {"data": "A" * 400_000}}]}], 1_000),
        ({"type": "computer_call_output", "output": {"image_url": "data:image/png;base64," + "A" * 9_000}}, 1_000),
        ({"role": "user", "content": "", "images": ["A" * 8_000] * 2}, 2_000),
        ([{"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 8_000}}], 2_000),
        ([{"type": "text", "text": '{"image_url": "data:image/png;base64,' + "A" * 8_000}], 2_000),
    ],
)
def test_an_estimate_counts_text_by_its_bytes_and_each_picture_by_a_fixed_number(content, tokens):
    message = content if isinstance(content, dict) else {"role": "user", "content": content}
    body = json.dumps({"messages": [message], "max_tokens": 7, "n": 2})
    hidden = re.sub(r'"i(?=mage_url|mages|nput_audio)', r'"\\u0069', body)
    for written in (body, hidden):
        found = Size.of(a_call(written.encode()))
        assert tokens <= found.input_tokens <= tokens + 60
        assert (found.output_tokens, found.answers) == (7, 2)


@pytest.mark.parametrize(
    "members",
    [
        *(f'"{name}": 900' for name in ("MAX_TOKENS", "max_to\\u212aens", "MAX_COMPLETION_TOKENS", "maxTokens")),
        *(f'"{name}": 900' for name in ("max_new_tokens", "max-output-tokens", "maxOutputTokens", "n_predict")),
        '"max_tokens": 900, "max_tokens": 6',
        '"max_tokens": 6, "max_tokens": "900", "max_tokens": [7]',
        *(f'"{name}": {{"max_tokens": 900, "n": 2}}' for name in ("extra_body", "Extra-Body", "generationConfig")),
        '"provider_options": {"openai": {"maxTokens": 900}, "extra_body": null}',
        '"extra_body": {"provider_options": {"x": {"num_predict": 900}}, "max_tokens": 8}',
        '"extra_body": {"pad": "' + "x" * 99_000 + '", "max_tokens": 900}',
    ],
)
def test_an_estimate_counts_the_largest_number_that_some_server_reads(members):
    found = Size.of(a_call(f'{{{members}, "max_tokens": 5, "BEST_OF": 3}}'.encode()))
    assert (found.output_tokens, found.answers) == (900, 3)


@pytest.mark.parametrize("name", ["metadata", "logit_bias", "response_format", "stream_options"])
def test_an_estimate_reads_no_object_whose_members_no_server_moves(name):
    found = Size.of(a_call(f'{{"{name}": {{"max_tokens": 900, "n": 9}}, "max_tokens": 5}}'.encode()))
    assert (found.output_tokens, found.answers) == (5, 1)


@pytest.mark.parametrize("name", ["best_of", "background", "metadata", "extra_body", "user"])
def test_a_number_that_no_float_holds_hides_no_other_member(name):
    found = Size.of(a_call(f'{{"{name}": [1e400], "n": 3, "max_tokens": 70}}'.encode()))
    assert (found.output_tokens, found.answers >= 3) == (70, True)


async def test_what_describes_the_work_of_other_requests_counts_no_tokens():
    stored = {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": {"total_tokens": 500}}

    def answer(received: Received) -> Dialogue:
        return [Send(reply({"input_tokens": 300} if "count" in received.target else stored))]

    opened = access(TOKEN_LIMIT, operations=["stored_responses", "messages"])
    async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url, access=opened) as gp:
        fetched = await gp.ask(None, "/v1/responses/resp_1", method="GET", headers=by("ana")).answer()
        counted = await ask(gp, {**HELLO, "max_tokens": 90_000}, "/v1/messages/count_tokens")
        assert [fetched.status, counted.status] == [200, 200]
        await settled(gp, [0, 0])


async def test_a_response_in_the_background_counts_its_reservation():
    queued: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "queued", "output": [], "usage": None}
    body = {"model": "m", "input": "hi", "background": True, "max_output_tokens": 700}
    async with limited([Send(reply(queued))], access=access(TOKEN_LIMIT)) as (gp, _):
        assert (await ask(gp, body, "/v1/responses")).status == 200
        await settled(gp, [700 + size(body), 0])


@pytest.mark.parametrize(
    ("value", "is_meant"), [("true", True), (1, True), ("yes", True), (0, False), ("false", False)]
)
def test_a_background_in_another_type_counts_its_reservation(value, is_meant):
    assert Size.of(a_call(json.dumps({"input": "hi", "background": value}).encode())).in_background is is_meant


async def test_a_form_counts_as_one_picture_or_sound_and_a_compaction_its_answer():
    form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
    body = {"model": "m", "input": "hi", "max_output_tokens": 700}
    async with limited([Send(reply({"text": "hi"}))], access=access(TOKEN_LIMIT)) as (gp, _):
        headers = by("ana") | {"content-type": "multipart/form-data; boundary=x"}
        assert (await gp.ask(form, "/v1/audio/transcriptions", headers=headers).answer()).status == 200
        await settled(gp, [1_000, 0])
    async with silent(timeouts={"first_byte_s": 0.3}) as (gp, _):
        assert (await ask(gp, body, "/v1/responses/compact")).error["code"] == "upstream_timeout_first_byte"
        await settled(gp, [size(body) + 700] * 2)


@pytest.mark.parametrize(
    ("members", "answers"),
    [
        ({"n": "3"}, 3),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": "a"}, 1),
        ({"PROMPT": ["a", "b"], "N": "2", "best_of": 3}, 6),
    ],
)
def test_each_prompt_of_a_list_and_a_number_in_a_text_are_answers(members, answers):
    assert Size.of(a_call(json.dumps(members).encode())).answers == answers


@pytest.mark.parametrize("value", ["0", '"x"', '"nan"', '""', "-1", "true", "null", "[1]", "{}"])
def test_an_estimate_ignores_values_that_are_no_counts(value):
    try:
        found = Size.of(a_call(f'{{"max_tokens":{value},"n":{value}}}'.encode()))
    except ValueError:
        pytest.fail("a body that a parser accepted must be estimated")
    assert (found.output_tokens, found.answers) == (0, 1)


LEAST = {"error": {"message": "max_tokens must be at least 512", "type": "invalid_request_error"}}
TOKENS_OF = [{"access": access(group=TOKEN_LIMIT)}, {"access": access(), "chat": {"limits": TOKEN_LIMIT}}]


@pytest.mark.parametrize("blocks", TOKENS_OF, ids=["group", "upstream"])
async def test_a_reservation_follows_a_limit_that_a_learned_rule_raised(blocks):
    go_on, asked, before = asyncio.Event(), {**STREAMED, "max_tokens": 5}, 0
    begun = [*begin_stream(), Send(chunk(delta(content="a"))), Wait(go_on)]

    def answer(received: Received) -> Dialogue:
        is_few = received.json()["max_tokens"] < 512
        return [Send(reply(LEAST, 400))] if is_few else [*begun, Send(chunk(delta("stop")) + chunk(DONE)), Fin()]

    async with limited(answer, **blocks) as (gp, upstream):
        for calls in (2, 3):  # refused first, then with the rule
            go_on.clear()
            async with gp.ask(asked, headers=by("ana")) as running:
                await running.head()
                await running.until(b"a")
                assert (used(gp.state), len(upstream.received)) == ([before + size(asked) + 512], calls)
                go_on.set()
                await running.answer()
            before += size(asked) + 2
            await settled(gp, [before])
