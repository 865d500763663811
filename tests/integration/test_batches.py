"""Embeddings in several requests: split, in order, all or nothing."""

import asyncio
from base64 import b64decode
from struct import unpack
from typing import Any

import pytest

from tests.integration.gateway import relaying
from tests.integration.scripted import Hold, Send, Wait, reply
from tests.waiting import until

PATH = "/v1/embeddings"
LIMIT = 4
TOO_MANY = "batch size {} > maximum allowed batch size 4"


def embedded(inputs: list[str], **more: Any) -> Any:
    """A correct reply: the vector of "7" is [7.0, 0.5], and `index` begins at 0 in each request."""
    data = [{"object": "embedding", "index": at, "embedding": [float(text), 0.5]} for at, text in enumerate(inputs)]
    usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
    return {"object": "list", "data": data, "model": "e-1", "usage": usage, **more}


def limited(request):
    inputs = request.json()["input"]
    if len(inputs) > LIMIT:
        return [Send(reply({"error": {"message": TOO_MANY.format(len(inputs))}}, 413))]
    return [Send(reply(embedded(inputs)))]


def asked(count: int, **more: Any) -> Any:
    return {"model": "e", "input": [str(number) for number in range(count)], **more}


def numbers(answer) -> list[float]:
    data = answer.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [entry["embedding"][0] for entry in data]


async def test_a_limit_that_is_reported_is_learned_and_gone_by():
    async with relaying(answer=limited) as (upstream, gp):
        first = await gp.ask(asked(10), PATH).answer()
        upstream.received.clear()
        second = await gp.ask(asked(9), PATH).answer()
        third = await gp.ask(asked(LIMIT), PATH).answer()
    assert (first.status, numbers(first)) == (200, list(map(float, range(10))))
    assert first.json()["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    assert first.headers["x-gatepass-adapted"] == "split=4"
    assert first.headers["x-gatepass-attempts"] == "4"
    assert (numbers(second), numbers(third)) == ([*map(float, range(9))], [*map(float, range(4))])
    sizes = sorted(len(request.json()["input"]) for request in upstream.received)
    assert sizes == [1, 4, 4, 4]
    assert "x-gatepass-adapted" not in third.headers


async def test_declared_split_needs_no_rejection():
    models = {"e": {"upstream": "chat", "rules": {"split": 3}}}
    async with relaying(answer=limited, models=models) as (upstream, gp):
        answer = await gp.ask(asked(8, encoding_format="base64", user="u"), PATH).answer()
    vectors = [unpack("<2f", b64decode(entry["embedding"])) for entry in answer.json()["data"]]
    assert vectors == [(float(number), 0.5) for number in range(8)]
    bodies = [request.json() for request in upstream.received]
    assert sorted(len(body["input"]) for body in bodies) == [2, 3, 3]
    assert {(body["encoding_format"], body["user"], body["model"]) for body in bodies} == {("float", "u", "e")}


FAILING: dict[str, tuple[int, Any, int, str]] = {
    "429": (429, {"error": {"message": "slow down", "code": "busy"}}, 429, "busy"),
    "an error in a 200": (200, {"code": 102, "message": "no"}, 400, "102"),
}


@pytest.mark.parametrize("case", FAILING)
async def test_failed_part_fails_the_whole_call(case):
    status, body, shown, code = FAILING[case]
    fail = asyncio.Event()

    def serve(request):
        if request.json()["input"][0] != "3":
            return [Hold()]
        return [Wait(fail), Send(reply(body, status, retry_after="7"))]

    models = {"e": {"upstream": "chat", "rules": {"split": 3}}}
    async with relaying(answer=serve, models=models) as (upstream, gp):
        async with gp.ask(asked(12), PATH) as ask:
            await upstream.requested(4)
            fail.set()
            answer = await ask.answer()
        await until(lambda: upstream.open <= 1)
        assert gp.state.in_flight.busy == 0
    assert (answer.status, answer.error["code"]) == (shown, code)
    if status == 429:
        assert answer.headers["retry-after"] == "7"


async def test_rejection_of_one_part_causes_rules_for_all_parts():
    """The first try is split already, and each part is refused for a member of all."""
    refused = "Unsupported parameter: 'user' is not supported with this model."

    def serve(request):
        body = request.json()
        if "user" in body:
            error = {"message": refused, "param": "user", "code": "unsupported_parameter"}
            return [Send(reply({"error": error}, 400))]
        return [Send(reply(embedded(body["input"])))]

    models = {"e": {"upstream": "chat", "rules": {"split": 5}}}
    async with relaying(answer=serve, models=models) as (_, gp):
        answer = await gp.ask(asked(10, user="u"), PATH).answer()
    assert numbers(answer) == list(map(float, range(10)))
    assert answer.headers["x-gatepass-adapted"] == "split=5, drop=user"
