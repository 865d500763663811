"""Work on large bodies outside of the event loop, in one thread for each caller.

The structure of a body is bounded (`limits.body_values`), so that msgspec, which holds the interpreter's lock, reads
any body in less than 50 ms. Python code hands the lock to the event loop every 5 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from gatepass.json_scan import has_more_values

INLINE_BYTES = 32 * 1024
INLINE_VALUES = 4_000
"""With at most this many commas and brackets a rule takes 15 ms at most, which may block the event loop."""
PARSED_VALUES = 30_000
"""With at most this many a body is parsed in 10 ms."""
MOST_ON_LOOP_BYTES = 2 * 1024 * 1024
"""A larger body is read in a thread, regardless of its values."""

Result = TypeVar("Result")


def is_heavy(body: bytes, most_values: int = INLINE_VALUES) -> bool:
    """Return whether work on `body` may block the event loop, because it is large or has more than `most_values`."""
    if len(body) <= INLINE_BYTES:
        return False
    return len(body) > MOST_ON_LOOP_BYTES or has_more_values(body, most_values)


class BodyThreads:
    """The threads for work on heavy bodies: one for each caller with such work, so that no caller waits for another."""

    __slots__ = ("_executors", "_works")

    def __init__(self) -> None:
        self._executors: dict[str, ThreadPoolExecutor] = {}
        self._works: dict[str, set[Future[Any]]] = {}

    async def run(self, caller: str, body: bytes, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, in a thread if `body`, which it reads, is heavy (`is_heavy`).

        `work` must not change shared state, and must not call C code that holds the interpreter's lock for more than
        50 ms. If the request is cancelled before `work` begins, it does not run.
        """
        return await self.run_heavy(caller, work) if is_heavy(body) else work()

    async def run_heavy(self, caller: str, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, in a thread."""
        if caller not in self._executors:
            self._executors[caller] = ThreadPoolExecutor(1, "gatepass-body")
        works = self._works.setdefault(caller, set())
        future = self._executors[caller].submit(work)
        works.add(future)
        try:
            return await asyncio.wrap_future(future)
        finally:
            works -= {one for one in works if one.done()}  # a cancelled request leaves its work to run
            if not works and self._works.get(caller) is works:  # another request may have ended the thread
                del self._works[caller]
                self._executors.pop(caller).shutdown(wait=False)

    def close(self) -> None:
        """End the threads after their current work."""
        for executor in self._executors.values():
            executor.shutdown(wait=False, cancel_futures=True)
