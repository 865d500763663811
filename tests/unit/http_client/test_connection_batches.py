"""Writes of one turn of the loop in a row."""

from __future__ import annotations

import asyncio

from gatepass.http_client.connection import MIN_IN_FLIGHT, WriteBatcher
from tests.unit.http_client.loop import rest


class Pen:
    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told

    def flush(self) -> None:
        self._told.append(self._name)


async def test_those_of_a_turn_are_reported_in_their_order_when_it_is_over():
    told: list[str] = []
    outbox, loop = WriteBatcher(), asyncio.get_running_loop()
    taken = [
        outbox.defer(Pen(name, told), under_way, loop)
        for name, under_way in (("a", MIN_IN_FLIGHT), ("b", MIN_IN_FLIGHT), ("c", 1))
    ]
    assert (taken, told) == ([True, True, True], [])  # with two that wait already the last one waits too
    await rest()
    assert told == ["a", "b", "c"]


async def test_who_has_few_beside_it_waits_for_nobody_in_the_next_turn_either():
    told: list[str] = []
    outbox, loop = WriteBatcher(), asyncio.get_running_loop()
    assert not outbox.defer(Pen("a", told), MIN_IN_FLIGHT - 1, loop)
    assert outbox.defer(Pen("b", told), MIN_IN_FLIGHT, loop)
    await rest()
    assert not outbox.defer(Pen("c", told), MIN_IN_FLIGHT - 1, loop)
    await rest()
    assert told == ["b"]


async def test_what_a_flush_puts_in_waits_for_the_next_turn():
    told: list[str] = []
    outbox, loop = WriteBatcher(), asyncio.get_running_loop()

    class Again(Pen):
        def flush(self) -> None:
            super().flush()
            outbox.defer(Pen("later", told), MIN_IN_FLIGHT, loop)

    outbox.defer(Again("first", told), MIN_IN_FLIGHT, loop)
    outbox.defer(Pen("second", told), MIN_IN_FLIGHT, loop)
    await rest()
    assert told == ["first", "second", "later"]
