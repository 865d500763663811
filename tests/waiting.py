"""Wait for a state that no event announces: poll it, and fail after a bound."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

BOUND_S = 120.0
"""Seconds that a test waits for an expected event."""
LOOK_S = 0.002
ASK_S = 0.02
"""Between two looks that others have to work for."""
REST_S = 0.3
"""A value that has not changed for so long does not change any more."""


async def until(holds: Callable[[], T], within_s: float = BOUND_S) -> T:
    """Wait until `holds()` is true; what it gave. Raises TimeoutError after `within_s`."""
    async with asyncio.timeout(within_s):
        while not (found := holds()):
            await asyncio.sleep(LOOK_S)
    return found


async def until_async(ask: Callable[[], Awaitable[T]], within_s: float = BOUND_S) -> T:
    """As `until`, where the look itself has to be waited for."""
    async with asyncio.timeout(within_s):
        while not (found := await ask()):
            await asyncio.sleep(ASK_S)
    return found


async def at_rest(moved: Callable[[], int], for_s: float = REST_S) -> int:
    """Wait until `moved()` has stayed the same for `for_s`; what it is. Only time shows that nothing comes."""
    async with asyncio.timeout(BOUND_S):
        before, now = None, moved()
        while now != before:
            await asyncio.sleep(for_s)
            before, now = now, moved()
    return now


def block_until(holds: Callable[[], T], within_s: float = BOUND_S) -> T:
    """`until` for a test, or a thread, without a loop."""
    end_s = time.monotonic() + within_s
    while not (found := holds()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"it did not come within {within_s:g} s")
        time.sleep(LOOK_S)
    return found
