"""One embeddings call in several requests: the fake upstream answers when the test says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gatepass.adapt.changes.change import revised
from gatepass.adapt.changes.vectors import SplitInputs
from gatepass.adapt.embeddings import PARALLEL
from gatepass.call import Call
from gatepass.errors import UpstreamClosed, UpstreamInvalid
from gatepass.observe.exchange import Exchange
from gatepass.parts import embedded
from gatepass.verdict import Made, Whole
from tests.unit.adapt.calls import EMBEDDINGS, a_call
from tests.unit.clock import settle

HEADERS = ((b"content-type", b"application/json"),)


def a_request(count: int, limit: int) -> tuple[Call, Call]:
    """The client's call, and what it becomes where `limit` inputs fit."""
    wanted = a_call(json.dumps({"model": "e", "input": [str(at) for at in range(count)]}).encode(), EMBEDDINGS)
    return wanted, revised(wanted, [SplitInputs(limit)])[0]


class Upstream:
    """Answers each part when it is let go; `broken` are parts that fail, by their first input."""

    def __init__(self, *, is_open: bool = True, broken: tuple[str, ...] = ()) -> None:
        self.go = asyncio.Event()
        if is_open:
            self.go.set()
        self.broken = broken
        self.asked: list[list[str]] = []
        self.under_way = self.most = self.cancelled = 0

    async def ask(self, part: Call, exchange: Exchange) -> Whole:
        inputs = json.loads(part.body)["input"]
        self.asked.append(inputs)
        exchange.attempts += 1
        exchange.upstream_request_id = f"req-{inputs[0]}"
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        if inputs[0] in self.broken:
            raise UpstreamClosed(f"part {inputs[0]}", upstream="chat")
        data: list[Any] = [{"index": at, "embedding": [float(text)]} for at, text in enumerate(inputs)]
        return Whole(200, HEADERS, json.dumps({"data": data, "usage": {"total_tokens": len(inputs)}}).encode())


async def test_one_part_goes_as_it_is_and_comes_as_it_is():
    upstream, exchange = Upstream(), Exchange.silent()
    wanted, adapted = a_request(2, 5)
    assert adapted is wanted
    reply = await embedded(wanted, adapted, "chat", exchange, upstream.ask)
    assert reply.body == (await upstream.ask(wanted, Exchange.silent())).body
    assert (upstream.asked[0], exchange.attempts) == (["0", "1"], 1)


async def test_several_parts_are_one_answer_and_one_story():
    upstream, exchange = Upstream(), Exchange.silent()
    reply = await embedded(*a_request(10, 3), "chat", exchange, upstream.ask)
    document = json.loads(reply.body)
    assert [entry["embedding"] for entry in document["data"]] == [[float(at)] for at in range(10)]
    assert (document["usage"], reply.status, reply.headers) == ({"total_tokens": 10}, 200, HEADERS)
    assert upstream.asked == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert exchange.attempts == 4


async def test_what_was_wrong_with_an_answer_is_named_beside_what_was_done_to_it():
    async def ask(part: Call, share: Exchange) -> Whole:
        data = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}]
        return Whole(200, HEADERS, json.dumps({"data": data}).encode(), ("unwrap=data",))

    reply = await embedded(*a_request(2, 2), "chat", Exchange.silent(), ask)
    assert [entry["embedding"] for entry in json.loads(reply.body)["data"]] == [[0.0], [1.0]]
    assert reply.adapted == ("unwrap=data", "embeddings=order")


async def test_no_more_than_a_few_are_under_way():
    upstream = Upstream(is_open=False)
    asking = asyncio.create_task(embedded(*a_request(20, 2), "chat", Exchange.silent(), upstream.ask))
    await settle()
    assert (upstream.under_way, len(upstream.asked)) == (PARALLEL, PARALLEL)
    upstream.go.set()
    await asking
    assert (upstream.most, len(upstream.asked)) == (PARALLEL, 10)


async def test_no_more_bodies_and_tasks_are_there_than_requests_under_way():
    upstream = Upstream(is_open=False)
    before = len(asyncio.all_tasks())
    asking = asyncio.create_task(embedded(*a_request(4000, 2), "chat", Exchange.silent(), upstream.ask))
    await settle()
    assert len(asyncio.all_tasks()) - before == 1 + PARALLEL
    upstream.go.set()
    assert len(json.loads((await asking).body)["data"]) == 4000


async def test_the_first_part_that_fails_ends_the_others_before_its_error_is_raised():
    upstream, exchange = Upstream(is_open=False, broken=("2",)), Exchange.silent()

    async def ask(part: Call, share: Exchange) -> Whole:
        if json.loads(part.body)["input"] == ["2", "3"]:
            share.attempts += 1
            raise UpstreamClosed("part 2", upstream="chat")
        return await upstream.ask(part, share)

    with pytest.raises(UpstreamClosed, match="part 2"):
        await embedded(*a_request(20, 2), "chat", exchange, ask)
    assert upstream.under_way == 0
    assert upstream.cancelled == len(upstream.asked) < 10
    assert exchange.attempts == len(upstream.asked) + 1


async def test_the_access_line_of_a_call_in_parts_tells_of_all_of_them():
    exchange = Exchange.silent()
    exchange.keeps_bodies, exchange.upstream_request_id = True, "of a try before"

    async def ask(part: Call, share: Exchange) -> Whole:
        first = json.loads(part.body)["input"][0]
        share.upstream_request_id = f"req-{first}"
        share.keep_body("reply", f"reply {first}".encode())
        body = json.dumps({"data": [{"index": at, "embedding": [1.0]} for at in range(2)]}).encode()
        return Whole(200, HEADERS, body, ("unwrap=data",) if first == "4" else ())

    reply = await embedded(*a_request(6, 2), "chat", exchange, ask)
    assert reply.adapted == ("unwrap=data",)
    assert exchange.upstream_request_id == "req-0,req-2,req-4"
    assert exchange.bodies == {"reply": "reply 0\nreply 2\nreply 4"}


async def test_the_part_that_failed_tells_first_what_it_was_answered():
    exchange = Exchange.silent()
    exchange.keeps_bodies = True

    async def ask(part: Call, share: Exchange) -> Whole:
        first = json.loads(part.body)["input"][0]
        share.upstream_request_id = f"req-{first}"
        share.keep_body("reply", f"reply {first}".encode())
        if first == "2":
            share.adapted = ("tried=this",)
            raise UpstreamClosed("part 2", upstream="chat")
        return Whole(200, HEADERS, b"{}")

    with pytest.raises(UpstreamClosed):
        await embedded(*a_request(4, 2), "chat", exchange, ask)
    assert (exchange.upstream_request_id, exchange.bodies) == ("req-2,req-0", {"reply": "reply 2\nreply 0"})
    assert exchange.adapted == ("tried=this",)


async def test_parts_that_fail_together_leave_no_error_behind():
    upstream = Upstream(broken=("0", "2", "4"))
    with pytest.raises(UpstreamClosed):
        await embedded(*a_request(6, 2), "chat", Exchange.silent(), upstream.ask)


async def test_a_cancelled_call_ends_every_part():
    upstream, exchange = Upstream(is_open=False), Exchange.silent()
    asking = asyncio.create_task(embedded(*a_request(20, 2), "chat", exchange, upstream.ask))
    await settle()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (upstream.under_way, upstream.cancelled, exchange.attempts) == (0, PARALLEL, PARALLEL)


async def test_a_vector_less_is_an_error_however_it_came():
    async def ask(part: Call, exchange: Exchange) -> Whole:
        return Whole(200, HEADERS, b'{"data":[{"index":0,"embedding":[1.0]}]}')

    for limit in (2, 5):
        with pytest.raises(UpstreamInvalid, match="there are 1 for 2 inputs"):
            await embedded(*a_request(4 if limit == 2 else 2, limit), "chat", Exchange.silent(), ask)


async def test_a_stream_is_no_answer_to_embeddings():
    async def ask(part: Call, exchange: Exchange) -> Made:
        return Made((), b"data: [DONE]\n\n", b"{}")

    with pytest.raises(TypeError):
        await embedded(*a_request(1, 5), "chat", Exchange.silent(), ask)
