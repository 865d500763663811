"""A finished stream is closed; a body that has not ended yet is read to its end in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from gatepass.cancel import Tasks
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.response_body import stream_pieces
from gatepass.proxy.response import TAIL_S, close_finished_stream
from tests.unit.clock import DrivenClock, settle


class Body:
    """A Response after its `[DONE]`: `end` lets its body end, with `fault` where it breaks off."""

    status, headers = 200, ()

    def __init__(self, *, ended: bool = False, fault: TransportFault | None = None) -> None:
        self.ended = ended
        self.end = asyncio.Event()
        self.fault = fault
        self.story: list[str] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.story.append("read")
        yield b"\n"
        await self.end.wait()
        if self.fault is not None:
            raise self.fault
        self.ended = True
        self.story.append("ended")

    async def stream_to(self, take: Callable[[bytes], bool]) -> bool:
        return await stream_pieces(self, take)

    async def aclose(self) -> None:
        self.story.append("closed")


async def test_a_body_that_has_ended_is_closed_without_a_task():
    tasks, body = Tasks(), Body(ended=True)
    before = asyncio.all_tasks()
    await close_finished_stream(body, tasks, DrivenClock())
    assert (body.story, asyncio.all_tasks()) == (["closed"], before)


async def test_nobody_waits_for_the_end_of_a_body():
    tasks, body = Tasks(), Body()
    await close_finished_stream(body, tasks, DrivenClock())
    assert body.story == []
    await settle()
    assert body.story == ["read"]
    body.end.set()
    await settle()
    assert body.story == ["read", "ended", "closed"]


async def test_a_body_that_does_not_end_is_closed_after_a_second():
    tasks, body, clock = Tasks(), Body(), DrivenClock()
    await close_finished_stream(body, tasks, clock)
    await clock.advance(TAIL_S - 0.01)
    assert body.story == ["read"]
    await clock.advance(0.01)
    assert body.story == ["read", "closed"]


async def test_a_body_that_breaks_off_is_closed_and_troubles_nobody():
    tasks, body = Tasks(), Body(fault=TransportFault(Fault.CLOSED, "gone"))
    await close_finished_stream(body, tasks, DrivenClock())
    body.end.set()
    await settle()
    assert body.story == ["read", "closed"]


async def test_what_ends_with_its_gate_is_closed():
    tasks, body = Tasks(), Body()
    await close_finished_stream(body, tasks, DrivenClock())
    await settle()
    await tasks.aclose()
    assert body.story == ["read", "closed"]
