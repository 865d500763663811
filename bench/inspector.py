"""The cost of one read of a stream to the request inspector, as `relay_piece` (proxy/relay.py) pays it.

It must be less than LIMIT_NS. Prints nanoseconds of CPU time, of the fastest of ROUNDS runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from gatepass.clock import SystemClock
from gatepass.observability.observer import AttemptRecord
from gatepass.proxy.context import Attempt

LIMIT_NS = 250
READS, ROUNDS = 200_000, 9


class Reader:
    """Does what `relay_piece` does."""

    def __init__(self) -> None:
        self.now = SystemClock().now
        nothing: Any = None  # a read concerns no other member of an attempt
        attempt = Attempt(nothing, nothing, nothing, nothing, AttemptRecord("1", "chat", "m", "a"))
        self.note_read, self.notes_reads = attempt.note_read, True
        self.note_read(self.now())

    def with_timeline(self, piece: bytes) -> None:
        if piece and self.notes_reads:
            self.note_read(self.now())

    def without(self, piece: bytes) -> None:
        """What the loop itself costs."""


def fastest_ns(read: Callable[[bytes], None]) -> float:
    """Return the time of one call."""
    runs = []
    for _ in range(ROUNDS):
        began_ns = time.process_time_ns()
        for _ in range(READS):
            read(b"data: {}\n\n")
        runs.append(time.process_time_ns() - began_ns)
    return min(runs) / READS


def main() -> int:
    reader = Reader()
    read_ns = fastest_ns(reader.with_timeline) - fastest_ns(reader.without)
    print(f"{read_ns:.0f} ns for each read of a stream, at most {LIMIT_NS}")
    return int(read_ns > LIMIT_NS)


if __name__ == "__main__":
    sys.exit(main())
