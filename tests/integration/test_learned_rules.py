"""Rules learned from errors, on real sockets: the requests, the replies, and the number of calls."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from gatepass.learning.memory import REFUTED_S
from gatepass.proxy.retry import MOST_TRIES, MOST_TRIES_S
from tests.integration.answers import COMPLETION, DONE, EVENTS, VECTORS
from tests.integration.gateway import HELLO, gateway
from tests.integration.refusing import NO_STREAM, Refusal, Refusing, always, no_stream, without
from tests.integration.scripted import Pause, Scripted, Send, Wait, begin_stream, chunk, event, reply, stream
from tests.unit.clock import DrivenClock

STREAMED = {**HELLO, "stream": True}
EMBED = {"model": "e", "input": "hi"}
BURST, FIRST_CALLS = 200, 8


def memory_of(gp):
    return gp.state.upstreams["chat"].state.learned


def learned_rules(gp):
    return [
        one.rule.entry for one in gp.state.upstreams["chat"].state.learned.records(0.0, 0.0) if one.state == "learned"
    ]


def counted(gp, event):
    text = gp.state.metrics.exposition().decode()
    return f'gatepass_learned_rule_events_total{{event="{event}",upstream="chat"}} 1.0' in text


async def test_rejected_stream_is_synthesized_and_learned(caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    options = {**STREAMED, "stream_options": {"include_usage": True}}
    async with Scripted(answer=Refusing([no_stream()])) as upstream, gateway(upstream=upstream.url) as gp:
        answers = [await gp.ask(options).answer() for _ in range(2)]
        assert learned_rules(gp) == ["stream=synth"]
        assert counted(gp, "learned")
    for answer, attempts in zip(answers, ("2", None), strict=True):
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert answer.headers["x-gatepass-adapted"] == "stream=synth"
        assert answer.headers.get("x-gatepass-attempts") == attempts
        assert "x-gatepass-tried" not in answer.headers
        assert answer.events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in answer.events[:-1]]
        texts = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
        assert "".join(text or "" for text in texts) == "hi"
        assert chunks[-1]["usage"] == COMPLETION["usage"]
    sent = [request.json() for request in upstream.received]
    assert [body["stream"] for body in sent] == [True, False, False]
    assert ["stream_options" in body for body in sent] == [True, False, False]
    (line,) = [record for record in caplog.records if record.getMessage() == "rule_learned"]
    assert NO_STREAM in str(line.__dict__)


async def test_a_rule_is_stored_with_the_first_event_of_a_stream():
    """A stream that breaks later has shown that the upstream accepts the change."""
    goes_on, refusal = asyncio.Event(), without("store")
    talk = [Send(chunk(EVENTS[0])), Wait(goes_on), *(Send(chunk(one)) for one in EVENTS[1:]), Send(b"0\r\n\r\n")]

    def answer(request):
        return refusal.dialogue if "store" in request.json() else [*begin_stream(), *talk]

    async with (
        Scripted(answer=answer) as upstream,
        gateway(upstream=upstream.url) as gp,
        gp.ask({**STREAMED, "store": True}) as ask,
    ):
        await ask.head()
        while b"hi" not in ask.body:
            await ask.piece()
        assert learned_rules(gp) == ["drop=store"]
        goes_on.set()


SEVEN = {
    "store": True,
    "metadata": {"topic": "x"},
    "prompt_cache_key": "k-1",
    "parallel_tool_calls": True,
    "reasoning_effort": "high",
    "verbosity": "low",
    "service_tier": "auto",
}
OTHERS = {"temperature": 0.2, "top_p": 0.9, "seed": 1, "user": "u", "stop": ["x"]}
"""Members that the strict upstream accepts."""


async def test_twenty_requests_with_unsupported_members_at_once_are_answered():
    body = {**HELLO, **OTHERS, **SEVEN}
    async with (
        Scripted(answer=Refusing([without(name) for name in SEVEN])) as upstream,
        gateway(upstream=upstream.url) as gp,
    ):
        answers = await asyncio.gather(*(gp.ask(body).answer() for _ in range(20)))
        assert len(learned_rules(gp)) == len(SEVEN)
    assert [answer.status for answer in answers] == [200] * 20
    assert len(upstream.received) <= 20 * MOST_TRIES


MANY = dict.fromkeys((*SEVEN, "seed", "user", "top_k", "min_p", "do_sample", "cache"), 1)


async def test_an_upstream_that_names_a_member_in_each_try_is_called_eight_times():
    refuses = Refusing([without(name) for name in MANY])
    async with Scripted(answer=refuses) as upstream, gateway(upstream=upstream.url) as gp:
        answer = await gp.ask({**HELLO, **MANY}).answer()
        assert (len(upstream.received), learned_rules(gp)) == (MOST_TRIES, [])
    tried = [f"drop={name}" for name in list(MANY)[:7]]
    assert (answer.status, answer.error["param"]) == (400, "store")
    assert answer.error["message"] == (
        "Unsupported parameter: 'store' is not supported with this model. Each try was rejected for another reason."
        f" Declare {', '.join(tried)} in the model's entry under models."
    )
    assert answer.headers["x-gatepass-tried"].split(", ") == tried
    assert "x-gatepass-adapted" not in answer.headers


async def test_no_further_try_begins_after_ten_seconds():
    clock, refuses = DrivenClock(), Refusing([without(name) for name in SEVEN])

    def answer(request):
        clock.suspend(MOST_TRIES_S / 4)
        return refuses(request)

    async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url, clock=clock) as gp:
        shown = await gp.ask({**HELLO, **SEVEN}).answer()
    assert (shown.status, shown.error["param"], len(upstream.received)) == (400, "store", 4)


async def test_the_total_timeout_ends_the_tries():
    def slowly(request):
        return [Pause(0.2), *Refusing([without(name) for name in SEVEN])(request)]

    async with Scripted(answer=slowly) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "timeouts": {"total_s": 0.5}}}
        async with gateway(upstreams=upstreams) as gp:
            answer = await gp.ask({**HELLO, **SEVEN}).answer()
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
    assert len(upstream.received) <= 3


async def test_a_request_whose_stream_began_is_not_repeated():
    error = {"message": "Unsupported parameter: 'seed'", "param": "seed", "code": "unsupported_parameter"}
    begun = [Send(stream(EVENTS[0], event({"error": error})))]
    async with Scripted(begun) as upstream, gateway(upstream=upstream.url) as gp:
        answer = await gp.ask({**STREAMED, "seed": 1}).answer()
        assert learned_rules(gp) == []
    assert (answer.status, answer.error["param"], len(upstream.received)) == (200, "seed", 1)


async def test_invalid_input_does_not_affect_other_batches():
    """Eleven good inputs and a bad one, at a model that takes ten at once; then twelve good ones."""

    def answer(request):
        inputs = request.json()["input"]
        inputs = inputs if isinstance(inputs, list) else [inputs]
        if len(inputs) > 10:
            return always("batch size is invalid, it should not be larger than 10.: input.contents").dialogue
        if "bad" in inputs:
            return always("Range of input length should be [1, 8192]").dialogue
        vectors = [{"object": "embedding", "index": at, "embedding": [0.5]} for at in range(len(inputs))]
        return [Send(reply({"object": "list", "data": vectors, "model": "e"}))]

    async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url) as gp:
        wrong = await gp.ask({"model": "e", "input": ["good"] * 11 + ["bad"]}, "/v1/embeddings").answer()
        again = await gp.ask({"model": "e", "input": ["good"] * 11 + ["bad"]}, "/v1/embeddings").answer()
        right = await gp.ask({"model": "e", "input": ["good"] * 12}, "/v1/embeddings").answer()
        assert learned_rules(gp) == ["split=10"]
    for refused in (wrong, again):
        assert refused.status == 400
        assert refused.error["message"].startswith("Range of input length should be [1, 8192]")
        assert refused.headers["x-gatepass-adapted"] == "split=10"
        assert "x-gatepass-tried" not in refused.headers
    assert "Already changed: split=10." in wrong.error["message"]
    assert (right.status, len(right.json()["data"])) == (200, 12)


async def test_other_fault_of_a_request_revokes_no_learned_rule():
    refuses = [without("max_tokens", "Unsupported parameter: '{}' is not supported with this model."), without("stop")]
    async with Scripted(answer=Refusing(refuses)) as upstream, gateway(upstream=upstream.url) as gp:
        wrong = await gp.ask({**HELLO, "max_tokens": 3, "stop": ["x"]}).answer()
        right = await gp.ask({**HELLO, "max_tokens": 3}).answer()
        assert learned_rules(gp) == ["rename=max_tokens>max_completion_tokens"]
    assert (wrong.status, wrong.error["param"]) == (400, "stop")
    assert "To drop stop, set upstreams.chat.learn_also: [stop]." in wrong.error["message"]
    assert (right.status, len(upstream.received)) == (200, 4)


@pytest.mark.parametrize(
    "then", [always("Streaming is off, and so is the rest."), always("boom", 500)], ids=["400", "500"]
)
async def test_failed_rule_returns_the_first_error_and_is_not_tried_for_a_minute(then):
    clock, upstream_of = DrivenClock(), Refusing([no_stream(), then])
    async with Scripted(answer=upstream_of) as upstream, gateway(upstream=upstream.url, clock=clock) as gp:
        first = await gp.ask(STREAMED).answer()
        assert (first.status, first.error["param"]) == (400, "stream")
        assert first.error["message"].startswith(NO_STREAM)
        assert first.headers["x-gatepass-tried"] == "stream=synth"
        assert counted(gp, "failed")
        again = await gp.ask(STREAMED).answer()
        assert (again.status, len(upstream.received)) == (400, 3)
        assert "x-gatepass-tried" not in again.headers
        (row,) = [one for one in memory_of(gp).records(clock.now(), clock.wall()) if one.state == "failed"]
        assert (row.rule.entry, round(row.expires_at - clock.wall())) == ("stream=synth", REFUTED_S)
        upstream_of.refuses.pop()
        await clock.advance(REFUTED_S)
        assert (await gp.ask(STREAMED).answer()).status == 200
        assert learned_rules(gp) == ["stream=synth"]


async def test_configured_stream_mode_is_not_changed_by_learning():
    async with Scripted(answer=Refusing([no_stream()])) as upstream:
        models = {"m": {"upstream": "chat", "stream": True}}
        async with gateway(upstream=upstream.url, models=models) as gp:
            answer = await gp.ask(STREAMED).answer()
    assert (answer.status, len(upstream.received)) == (400, 1)
    assert answer.error["message"].endswith("The model's entry sets stream: native. Set it to auto or emulate.")


async def test_a_burst_of_which_each_request_is_rejected_once_leaves_one_rule():
    async with Scripted(answer=Refusing([no_stream()])) as upstream, gateway(upstream=upstream.url) as gp:
        answers = await asyncio.gather(*(gp.ask(STREAMED).answer() for _ in range(BURST)))
        before = len(upstream.received)
        assert (await gp.ask(STREAMED).answer()).status == 200
        assert learned_rules(gp) == ["stream=synth"]
    assert {(answer.status, answer.events[-1]) for answer in answers} == {(200, "[DONE]")}
    assert (before <= 2 * BURST, len(upstream.received)) == (True, before + 1)


NO_DIMENSIONS = (
    'Model "e" does not support matryoshka representation, changing output dimensions will lead to poor results.'
)


@pytest.mark.parametrize(("wanted", "status"), [(2, 200), (3, 400)])
async def test_dimensions_are_dropped_only_if_the_vectors_have_that_length(wanted, status):
    refusal = Refusal(lambda body: "dimensions" in body, NO_DIMENSIONS)

    def answer(request):
        return refusal.dialogue if refusal.concerns(request.json()) else [Send(reply(VECTORS))]

    async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url) as gp:
        found = await gp.ask({**EMBED, "dimensions": wanted}, "/v1/embeddings").answer()
        learned = learned_rules(gp)
    assert (found.status, len(upstream.received)) == (status, 2)
    if status == 200:
        assert (found.json()["data"], learned) == (VECTORS["data"], ["drop=dimensions"])
        return
    assert found.error["message"].startswith(NO_DIMENSIONS)
    assert (found.headers["x-gatepass-tried"], learned) == ("drop=dimensions", [])


@pytest.mark.parametrize("declared", [None, False])
async def test_token_ids_are_sent_and_a_rejection_names_the_remedy(declared):
    refusal = always("'input' field must be a string or an array of strings")
    models = {} if declared is None else {"e": {"upstream": "chat", "capabilities": {"token_ids": declared}}}
    async with Scripted(answer=Refusing([refusal])) as upstream, gateway(upstream=upstream.url, models=models) as gp:
        answer = await gp.ask({"model": "e", "input": [[1, 2]]}, "/v1/embeddings").answer()
    assert answer.status == 400
    assert "check_embedding_ctx_length=False" in answer.error["message"]
    assert len(upstream.received) == (1 if declared is None else 0)


async def test_token_expired_between_two_attempts_is_renewed_and_rules_are_kept():
    tokens = iter(["tok-first-1", "tok-second-2", "tok-third-3"])
    asked = []

    def serve(request):
        body = request.json()
        asked.append((request.header("authorization"), body["stream"]))
        if body["stream"]:
            return no_stream().dialogue
        if request.header("authorization") == "Bearer tok-first-1":
            return always("token expired", 401).dialogue
        return [Send(reply(COMPLETION))]

    def mint(_):
        return [Send(reply({"access_token": next(tokens), "expires_in": 300}))]

    async with Scripted(answer=mint) as issuer, Scripted(answer=serve) as upstream:
        credential = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "a-long-secret"}
        upstreams = {"chat": {"base_url": upstream.url, "credential": "corp"}}
        async with gateway(upstreams=upstreams, credentials={"corp": credential}) as gp:
            answer = await gp.ask(STREAMED).answer()
            assert learned_rules(gp) == ["stream=synth"]
    assert (answer.status, answer.body.endswith(DONE)) == (200, True)
    first, second = "Bearer tok-first-1", "Bearer tok-second-2"
    assert asked == [(first, True), (first, False), (second, False)]
