"""Rules learned from errors, on real sockets: the requests, the replies, and the number of calls."""

import asyncio
import json
import logging

import pytest

from tests.integration.answers import COMPLETION, EVENTS, VECTORS
from tests.integration.gateway import HELLO, STREAMED, relaying
from tests.integration.refusing import NO_STREAM, Refusal, Refusing, no_stream, without
from tests.integration.scripted import Send, Wait, begin_stream, chunk, reply

EMBED = {"model": "e", "input": "hi"}


def learned_rules(gp):
    return [one.rule.entry for one in gp.state.learned_rules()]


async def test_rejected_stream_is_synthesized_and_learned(caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    options = {**STREAMED, "stream_options": {"include_usage": True}}
    async with relaying(answer=Refusing([no_stream()])) as (upstream, gp):
        answers = [await gp.ask(options).answer() for _ in range(2)]
        assert learned_rules(gp) == ["stream=synth"]
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


@pytest.mark.parametrize(
    ("members", "message", "status", "adapted"),
    [
        ({"stop": []}, "stop参数非法", 200, "drop=stop"),
        ({"temperature": 0.5}, "temperature must be １", 200, "drop=temperature"),
        ({"_": 1}, "Property '_' is not supported", 400, None),
    ],
)
async def test_an_odd_name_or_value_in_an_error_is_no_error_of_gatepass(members, message, status, adapted):
    refusal = Refusal(lambda body: not body.keys().isdisjoint(members), message)
    async with relaying(answer=Refusing([refusal])) as (_, gp):
        answer = await gp.ask({**HELLO, **members}).answer()
    assert (answer.status, answer.headers.get("x-gatepass-adapted")) == (status, adapted)
    assert status == 200 or message in answer.error["message"]


async def test_a_rule_is_stored_with_the_first_event_of_a_stream():
    """A stream that breaks later has shown that the upstream accepts the change."""
    goes_on, refusal = asyncio.Event(), without("store")
    talk = [Send(chunk(EVENTS[0])), Wait(goes_on), *(Send(chunk(one)) for one in EVENTS[1:]), Send(b"0\r\n\r\n")]

    def answer(request):
        return refusal.dialogue if "store" in request.json() else [*begin_stream(), *talk]

    async with relaying(answer=answer) as (_, gp), gp.ask({**STREAMED, "store": True}) as ask:
        await ask.head()
        while b"hi" not in ask.body:
            await ask.piece()
        assert learned_rules(gp) == ["drop=store"]
        goes_on.set()


NO_DIMENSIONS = (
    'Model "e" does not support matryoshka representation, changing output dimensions will lead to poor results.'
)


@pytest.mark.parametrize(("wanted", "status"), [(2, 200), (3, 400)])
async def test_dimensions_are_dropped_only_if_the_vectors_have_that_length(wanted, status):
    refusal = Refusal(lambda body: "dimensions" in body, NO_DIMENSIONS)

    def answer(request):
        return refusal.dialogue if refusal.concerns(request.json()) else [Send(reply(VECTORS))]

    async with relaying(answer=answer) as (upstream, gp):
        found = await gp.ask({**EMBED, "dimensions": wanted}, "/v1/embeddings").answer()
        learned = learned_rules(gp)
    assert (found.status, len(upstream.received)) == (status, 2)
    if status == 200:
        assert (found.json()["data"], learned) == (VECTORS["data"], ["drop=dimensions"])
        return
    assert found.error["message"].startswith(f"{NO_DIMENSIONS} Tried before: `drop=dimensions`.")
    assert (found.headers["x-gatepass-tried"], learned) == ("drop=dimensions", [])


@pytest.mark.parametrize(("declared", "statuses"), [(2, [200, 200, 200]), (3, [502, 502, 502])])
async def test_a_null_names_no_dimensions_so_that_the_declared_length_holds(declared, statuses):
    """The refusal of the null was the client's error, and the wrong length was not named."""
    refusal = Refusal(lambda body: "dimensions" in body, NO_DIMENSIONS)

    def answer(request):
        return refusal.dialogue if refusal.concerns(request.json()) else [Send(reply(VECTORS))]

    models = {"*": {"upstream": "chat", "capabilities": {"dimensions": declared}}}
    async with relaying(answer=answer, models=models) as (_, gp):
        bodies = ({**EMBED, "dimensions": None}, {**EMBED, "dimensions": None}, EMBED)
        found = [await gp.ask(body, "/v1/embeddings").answer() for body in bodies]
        with_length = await gp.ask({**EMBED, "dimensions": 2}, "/v1/embeddings").answer()
        after_a_drop = await gp.ask({**EMBED, "dimensions": None}, "/v1/embeddings").answer()
    assert [one.status for one in found] == statuses
    assert (with_length.status, after_a_drop.status) == (200, statuses[0])
    for one in (*found, after_a_drop):
        assert one.status == 200 or "models.*.capabilities.dimensions declares 3" in one.error["message"]
