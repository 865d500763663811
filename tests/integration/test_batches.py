"""Embeddings in several requests: split, in order, all or nothing."""

import struct
from base64 import b64encode
from typing import Any

import pytest

from gatepass.server.inspection import stories
from tests.integration.gateway import relaying
from tests.integration.scripted import Send, reply

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


DECLARED = {
    "e": {"upstream": "chat", "capabilities": {"dimensions": 1024}},
    "e-*": {"upstream": "chat", "capabilities": {"dimensions": 1024}},
    "split": {"upstream": "chat", "capabilities": {"dimensions": 1024}, "rules": {"split": 2}},
    "*": {"upstream": "chat"},
}


def long_vectors(length: int, *, as_base64: bool = False) -> Any:
    """Answers with vectors of so many numbers, or of as many as the request asks for."""

    def answer(request):
        body = request.json()
        numbers = [0.5] * int(body.get("dimensions") or length)
        vector = b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode() if as_base64 else numbers
        data = [{"object": "embedding", "index": at, "embedding": vector} for at, _ in enumerate(body["input"])]
        return [Send(reply({"object": "list", "data": data, "model": "e-1"}))]

    return answer


@pytest.mark.parametrize("as_base64", [False, True])
@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "base64"}, {"encoding_format": "float"}])
@pytest.mark.parametrize(("model", "entry"), [("e", "e"), ("e-large", "e-*"), ("split", "split")])
async def test_vectors_of_another_length_than_the_declared_one_are_an_error(as_base64, encoding, model, entry):
    setting = f"models.{entry}.capabilities.dimensions"
    body = {**asked(5), "model": model, **encoding}
    async with relaying(answer=long_vectors(768, as_base64=as_base64), models=DECLARED) as (_, gp):
        for named in ({}, {"dimensions": None}):
            refused = await gp.ask({**body, **named}, PATH).answer()
            assert (refused.status, refused.error["code"], refused.error["hop"]) == (
                502,
                "upstream_invalid",
                "upstream:chat",
            )
            assert f": a vector has 768 numbers, and {setting} declares 1024. " in refused.error["message"]
            assert refused.headers["x-should-retry"] == "false"
        (story,) = await stories(gp.state, refused.headers["x-request-id"], bodies=False)
    assert story.error is not None
    assert f"`{setting}`" in story.error.action
    assert f"`{setting}`" in story.error.action_zh


async def test_vectors_of_the_declared_or_of_the_requested_length_pass():
    async with relaying(answer=long_vectors(1024), models=DECLARED) as (_, gp):
        for model in ("e", "e-large", "split"):
            assert (await gp.ask({**asked(3), "model": model}, PATH).answer()).status == 200
            assert (await gp.ask({**asked(3), "model": model, "dimensions": 256}, PATH).answer()).status == 200
    async with relaying(answer=long_vectors(768), models=DECLARED) as (_, gp):
        assert (await gp.ask({**asked(3), "model": "other"}, PATH).answer()).status == 200
        # as the client gave them: the upstream decides about such values
        assert (await gp.ask({**asked(3), "dimensions": "768"}, PATH).answer()).status == 200
