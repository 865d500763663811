"""Small whole messages of one iteration of the event loop, written one after the other when it is over."""

from __future__ import annotations

import asyncio
from typing import Protocol

MANY = 3
"""With so many requests under way a small whole message waits for the others of its iteration.

A write wakes whoever reads, and to wake a process that sleeps on another core takes the kernel longer than all else
that the call does; of ten writes in a row only the first finds it asleep. With 64 chats at a time each takes 111 µs of
CPU in the place of 160 (Xeon, virtual cores), with 8 it takes 129 in the place of 165; with 2 each would take longer,
and one alone would wait for nobody.
"""


class BatchedWriter(Protocol):
    """One connection."""

    def flush(self) -> None:
        """Write what waits, where there is still somebody who reads it. Does not raise."""
        ...


class WriteBatcher:
    """Batches writes, of whole messages only: an event of a stream that is still coming goes the moment it is here."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[BatchedWriter] = []

    def defer(self, writer: BatchedWriter, under_way: int, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether `writer` is to wait, being one of so many `in_flight`: it is told to flush when all that is ready
        in this iteration of `loop` has run."""
        waiting = self._waiting
        if not waiting:
            if under_way < MANY:
                return False
            loop.call_soon(self._flush)
        waiting.append(writer)
        return True

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for writer in waiting:
            writer.flush()
