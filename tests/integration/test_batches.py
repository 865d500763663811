"""Embeddings in several requests: split, in order, all or nothing."""

from typing import Any

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
