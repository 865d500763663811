"""Writes of one turn of the loop in a row."""

from __future__ import annotations

import asyncio

from gatepass.http_client.connection import MIN_IN_FLIGHT, WriteBatcher
from tests.unit.http_client.loop import rest


class Pen:
    def __init__(self, name: str, events: list[str]) -> None:
        self._name, self._events = name, events

    def flush(self) -> None:
        self._events.append(self._name)


async def test_deferred_writes_are_flushed_in_their_order_at_the_end_of_the_iteration():
    events: list[str] = []
    batcher, loop = WriteBatcher(), asyncio.get_running_loop()
    taken = [
        batcher.defer(Pen(name, events), under_way, loop)
        for name, under_way in (("a", MIN_IN_FLIGHT), ("b", MIN_IN_FLIGHT), ("c", 1))
    ]
    assert (taken, events) == ([True, True, True], [])  # with two that wait already the last one waits too
    await rest()
    assert events == ["a", "b", "c"]


async def test_writer_deferred_during_a_flush_waits_for_the_next_iteration():
    events: list[str] = []
    batcher, loop = WriteBatcher(), asyncio.get_running_loop()

    class Again(Pen):
        def flush(self) -> None:
            super().flush()
            batcher.defer(Pen("later", events), MIN_IN_FLIGHT, loop)

    batcher.defer(Again("first", events), MIN_IN_FLIGHT, loop)
    batcher.defer(Pen("second", events), MIN_IN_FLIGHT, loop)
    await rest()
    assert events == ["first", "second", "later"]
