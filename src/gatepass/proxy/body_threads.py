"""Work on large bodies outside of the event loop, in one thread that callers use in turns.

The structure of a body is bounded (`MOST_VALUES`), so that msgspec, which holds the interpreter's lock, reads
any body in less than 50 ms. Python code hands the lock to the event loop every 5 ms.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from gatepass.json_scan import has_more_values, place_of
from gatepass.normalize.rules import BUILT_IN_RULES, MODEL, MODEL_NAME_ONLY, applicable_rules, apply_rules
from gatepass.types import Call, Rule, Target

INLINE_BYTES = 32 * 1024
INLINE_VALUES = 4_000
"""With at most this many commas and brackets a rule takes 15 ms at most, which may block the event loop."""
PARSED_BYTES, PARSED_VALUES = 256 * 1024, 30_000
"""A body of at most this size, or with at most this many commas and brackets, is parsed in 10 ms."""
MOST_ON_LOOP_BYTES = 2 * 1024 * 1024
"""A larger body is read in a thread, regardless of its values."""

Result = TypeVar("Result")


def is_heavy(body: bytes, inline_bytes: int = INLINE_BYTES, inline_values: int = INLINE_VALUES) -> bool:
    """Return whether work on `body`, by default a rule, may block the event loop: it is large or has many values."""
    if len(body) <= inline_bytes:
        return False
    return len(body) > MOST_ON_LOOP_BYTES or has_more_values(body, inline_values)


class BodyThreads:
    """The thread for work on heavy bodies. Callers take turns, so that one caller's many bodies delay no other's.

    Several threads would delay the event loop, because each holds the interpreter's lock for 5 ms at a time.
    """

    __slots__ = ("_executor", "_is_working", "_turns")

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "gatepass-body")  # the thread starts with the first work
        self._is_working = False
        self._turns: dict[str, deque[asyncio.Future[None]]] = {}
        """The waiting works of each caller, in the order of the callers' turns."""

    async def run(self, caller: str, body: bytes, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, in the thread if `body`, which it reads, is heavy (`is_heavy`).

        `work` must not change shared state, and must not call C code that holds the interpreter's lock for more than
        50 ms. If the request is cancelled before `work` begins, it does not run.
        """
        return await self.run_heavy(caller, work) if is_heavy(body) else work()

    async def run_heavy(self, caller: str, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, in the thread, when it is the turn of `caller`."""
        loop = asyncio.get_running_loop()
        if self._is_working:
            turn = loop.create_future()
            self._turns.setdefault(caller, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # cancelled after its turn came
                    self._end_turn()
                raise
        self._is_working = True
        future = self._executor.submit(work)

        def end(_: Future[Result]) -> None:
            with suppress(RuntimeError):  # the loop was closed while the work of a cancelled request ran
                loop.call_soon_threadsafe(self._end_turn)

        future.add_done_callback(end)  # not before the work has ended: a cancelled request leaves it to run
        return await asyncio.wrap_future(future)

    def _end_turn(self) -> None:
        self._is_working = False
        while self._turns and not self._is_working:
            caller = next(iter(self._turns))
            waiting = self._turns.pop(caller)
            turn = waiting.popleft()
            if waiting:
                self._turns[caller] = waiting  # after all other callers
            if not turn.done():
                self._is_working = True
                turn.set_result(None)

    def close(self) -> None:
        """End the thread after its current work."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def normalize_large(call: Call, target: Target, rules: Sequence[Rule], threads: BodyThreads) -> Call:
    """Apply `rules` as `normalize` does, in a thread where they may block the event loop."""
    search = partial(applicable_rules, call, rules)
    rules = search() if len(call.body) <= MOST_ON_LOOP_BYTES else await threads.run_heavy(call.caller, search)
    if rules is BUILT_IN_RULES and is_heavy(call.body):
        # the last rule runs on the event loop: a thread keeps the memory that it frees, here one copy of the body
        call = await threads.run_heavy(call.caller, partial(apply_rules, call, target, rules[:-1]))
        rules = MODEL_NAME_ONLY
    if rules is MODEL_NAME_ONLY and place_of(call.body, MODEL) >= 0:
        return apply_rules(call, target, rules)
    return await threads.run(call.caller, call.body, partial(apply_rules, call, target, rules))
