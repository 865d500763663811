"""Cost of getting a valid token from a token holder: `python -m bench.holder`, two seconds.

The request path calls `current()`. The coroutine `token()` must end without yielding to the loop. This module drives it
by hand, so a yield raises an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gatepass.clock import SystemClock
from gatepass.observability.redaction import Redactor
from gatepass.tokens import Token, TokenHolder, WaitBudget
from gatepass.types import Secret

BATCHES, BATCH = 40, 20_000


class StaticSource:
    """A source with one token of five minutes."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock

    async def fetch(self) -> Token:
        return Token(Secret("a-token"), self._clock.now(), 300.0)

    def secrets(self) -> tuple[Secret, ...]:
        return ()


def least_ns(work: Callable[[], object]) -> float:
    """Return nanoseconds per call in the fastest of several batches."""
    return min(_batch_ns(work) for _ in range(BATCHES))


def _batch_ns(work: Callable[[], object]) -> float:
    began = time.process_time_ns()
    for _ in range(BATCH):
        work()
    return (time.process_time_ns() - began) / BATCH


def _without_yield(holder: TokenHolder) -> Token:
    coroutine = holder.token()
    try:
        coroutine.send(None)
    except StopIteration as done:
        token: Token = done.value
        return token
    raise AssertionError("token() yielded although a valid token is held")


async def main() -> None:
    clock = SystemClock()
    holder = TokenHolder("bench", StaticSource(clock), clock, Redactor(), WaitBudget(1.0))
    holder.start()
    await holder.token()
    empty_ns = least_ns(lambda: None)
    for name, work in (("current()", holder.current), ("token(), no yield", lambda: _without_yield(holder))):
        print(f"{name:18} {least_ns(work) - empty_ns:6.0f} ns")
    await holder.aclose()


if __name__ == "__main__":
    asyncio.run(main())
