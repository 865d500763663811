"""One embeddings call in several requests, over a fake upstream that answers at the test's command."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.errors import UpstreamClosed
from gatepass.normalize.embeddings_reply import PARALLEL
from gatepass.normalize.embeddings_request import SplitInputs
from gatepass.normalize.rules import apply_changes
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.batches import SendOnce, send_parts
from gatepass.proxy.context import Attempt
from gatepass.proxy.response import BufferedReply, ClassifiedReply
from gatepass.types import Call, Target
from tests.rows import EMBEDDINGS
from tests.unit.clock import settle
from tests.unit.normalize.calls import a_call

HEADERS = ((b"content-type", b"application/json"),)


def a_request(count: int, limit: int) -> tuple[Call, Call]:
    """The client's call, and what it becomes where `limit` inputs fit."""
    wanted = a_call(json.dumps({"model": "e", "input": [str(at) for at in range(count)]}).encode(), EMBEDDINGS)
    return wanted, apply_changes(wanted, [SplitInputs(limit)])[0]


def an_attempt(wanted: Call) -> Attempt:
    blocks = {"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}
    state = create_app_state(Config.model_validate(blocks))
    return Attempt.begin(state, Target("chat"), wanted)


def asked(request: tuple[Call, Call], ask: SendOnce) -> Coroutine[Any, Any, BufferedReply]:
    wanted, adapted = request
    return sent(an_attempt(wanted), adapted, ask)


def sent(attempt: Attempt, adapted: Call, ask: SendOnce) -> Coroutine[Any, Any, BufferedReply]:
    """Send the parts with `ask`, each in its attempt."""

    async def send_part(call_attempt: Attempt, at: int, part: Call) -> ClassifiedReply:
        if call_attempt.parts is None:
            call_attempt.parts = {}
        call_attempt.parts[at] = call_attempt.begin_part()
        return await ask(call_attempt.parts[at], part)

    return send_parts(attempt, adapted, ask, send_part)


class Upstream:
    def __init__(self, *, is_open: bool = True) -> None:
        self.go = asyncio.Event()
        if is_open:
            self.go.set()
        self.asked: list[list[str]] = []
        self.under_way = self.most = self.cancelled = 0

    async def ask(self, attempt: Attempt, part: Call) -> BufferedReply:
        inputs = json.loads(part.body)["input"]
        self.asked.append(inputs)
        attempt.record.requests += 1
        attempt.record.upstream_request_id = f"req-{inputs[0]}"
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        data: list[Any] = [{"index": at, "embedding": [float(text)]} for at, text in enumerate(inputs)]
        return BufferedReply(200, HEADERS, json.dumps({"data": data, "usage": {"total_tokens": len(inputs)}}).encode())


async def test_repairs_of_the_reply_are_named_next_to_changes_of_the_request():
    async def ask(share: Attempt, part: Call) -> BufferedReply:
        data = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}]
        return BufferedReply(200, HEADERS, json.dumps({"data": data}).encode(), ("unwrap=data",))

    reply = await asked(a_request(2, 2), ask)
    assert [entry["embedding"] for entry in json.loads(reply.body)["data"]] == [[0.0], [1.0]]
    assert reply.adapted == ("unwrap=data", "embeddings=order")


async def test_no_more_bodies_and_tasks_are_there_than_requests_under_way():
    upstream = Upstream(is_open=False)
    before = len(asyncio.all_tasks())
    asking = asyncio.create_task(asked(a_request(4000, 2), upstream.ask))
    await settle()
    assert len(asyncio.all_tasks()) - before == 1 + PARALLEL
    upstream.go.set()
    assert len(json.loads((await asking).body)["data"]) == 4000


async def test_the_first_part_that_fails_ends_the_others_before_its_error_is_raised():
    upstream = Upstream(is_open=False)
    wanted, adapted = a_request(20, 2)
    attempt = an_attempt(wanted)

    async def ask(share: Attempt, part: Call) -> BufferedReply:
        if json.loads(part.body)["input"] == ["2", "3"]:
            share.record.requests += 1
            raise UpstreamClosed("part 2", upstream="chat")
        return await upstream.ask(share, part)

    with pytest.raises(UpstreamClosed, match="part 2"):
        await sent(attempt, adapted, ask)
    assert upstream.under_way == 0
    assert upstream.cancelled == len(upstream.asked) < 10
    assert attempt.record.requests == len(upstream.asked) + 1
