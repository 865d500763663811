"""Work on large bodies outside of the event loop, in one thread, for which callers take turns.

What msgspec reads is bounded (`json_body`), because it holds the interpreter's lock. Python code hands the lock to the
event loop every 5 ms.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from gatepass.draft import Rule
from gatepass.fair_queue import FairQueue
from gatepass.json_body import UNCOUNTED_BYTES
from gatepass.normalize.rules import FLAT_RULES, apply_rules
from gatepass.types import Call, Target

INLINE_BYTES = 32 * 1024
INLINE_VALUES = 4_000
"""With at most this many brackets in at most UNCOUNTED_BYTES, a rule takes 15 ms at most, which may block the event
loop. A larger body is read in the thread."""

Result = TypeVar("Result")


def is_heavy(body: bytes) -> bool:
    """Return whether to open values of `body` may block the event loop: it is large or has many of them."""
    if not INLINE_BYTES < len(body) <= UNCOUNTED_BYTES:
        return len(body) > INLINE_BYTES
    # at once, because parts are copies (`has_more`): 0.32 million instructions for an agent's turn instead of 0.49
    return sum(len(body) - len(body.replace(sign, b"", INLINE_VALUES + 1)) for sign in (b"{", b"[")) > INLINE_VALUES


class BodyThreads:
    """The thread for work on heavy bodies: in order within a caller, and in turn between callers.

    Several threads would delay the event loop, because each holds the interpreter's lock for 5 ms at a time.
    """

    __slots__ = ("_executor", "turns")

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "gatepass-body")  # the thread starts with the first work
        self.turns = FairQueue[asyncio.Event](1, most_waiting=sys.maxsize)

    async def run(self, caller: str, body: bytes, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, in the thread if `body`, which it reads, is heavy (`is_heavy`).

        `work` must not change shared state, and must not call C code that holds the interpreter's lock for more than
        50 ms. If the request is cancelled before `work` begins, it does not run.
        """
        return await self.run_heavy(caller, work) if is_heavy(body) else work()

    async def run_heavy(self, caller: str, work: Callable[[], Result]) -> Result:
        """Return the result of `work` in the thread, when it is the turn of `caller`, by its identity."""
        turn = asyncio.Event()
        self.turns.enter(turn, caller, weight=1)
        try:
            if turn in self.turns.waiting:
                await turn.wait()
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:  # also if the request was cancelled: what runs then goes on, and the next work waits in the executor
            if (following := self.turns.leave(turn)) is not None:
                following.set()

    def close(self) -> None:
        """End the thread after its current work."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def normalize_large(call: Call, target: Target, rules: Iterable[Rule], threads: BodyThreads) -> Call:
    """Apply `rules` as `normalize` does, in a thread where what they open may block the event loop."""
    found = [rule for rule in rules if rule.concerns(call, target)]
    work = partial(apply_rules, call, target, found)
    if FLAT_RULES.issuperset(found) and (call.top is not None or len(call.body) <= UNCOUNTED_BYTES):
        return work()
    return await threads.run(call.caller, call.body, work)
