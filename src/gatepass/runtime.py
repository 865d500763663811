"""Time, and the tasks that somebody owns: the two things a pure decision never touches itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """All time that gatepass knows. Tests drive one by hand."""

    def now(self) -> float:
        """Seconds that only grow, suspend included: ages and expiries are measured on it."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch: only to translate an absolute date that somebody else wrote."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer: ...


class SystemClock:
    """The machine's time.

    CLOCK_BOOTTIME goes on in suspend where CLOCK_MONOTONIC stands still: a token that died
    while a laptop slept must be seen as dead on wake. No Python frame is around `now`: a request asks six times.
    """

    now = staticmethod(partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
    wall = staticmethod(time.time)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)


async def sleep(clock: Clock, delay_s: float) -> None:
    """Wait `delay_s` seconds of `clock`."""
    done = asyncio.Event()
    timer = clock.call_later(delay_s, done.set)
    try:
        await done.wait()
    finally:
        timer.cancel()


class Leash:
    """Lets somebody else end the work of one task, with a reason.

    Inside `with leash:` the owner's task runs; `leash.pull(reason)` from elsewhere cancels it at
    its next await, and the block ends by raising `reason`. A cancellation from outside stays a
    cancellation. This is how a leaving client, a deadline and a drain all end a request.
    """

    _task: asyncio.Task[Any] | None = None
    _reason: BaseException | None = None
    _cancelling = 0
    _loop: asyncio.AbstractEventLoop | None = None
    """The loop that runs, where it is known."""

    @property
    def reason(self) -> BaseException | None:
        return self._reason

    def pull(self, reason: BaseException) -> None:
        """End the task with `reason`; the first reason wins, and a finished block is left alone."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("a Leash holds a task: enter it inside one")
        self._task, self._cancelling = task, task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._reason is None or task is None:
            return
        if task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._reason from None


async def timeout(clock: Clock, delay_s: float, work: Awaitable[T], reason: BaseException) -> T:
    """Await `work` for at most `delay_s` seconds of `clock`, then raise `reason`."""
    leash = Leash()
    with leash:
        timer = clock.call_later(delay_s, lambda: leash.pull(reason))
        try:
            return await work
        finally:
            timer.cancel()


class Watched(Protocol):
    def look(self) -> None:
        """What is to be done from time to time; it does not raise and does not wait."""
        ...


class Rounds:
    """Looks at each of its members every `every_s`, from one timer however many they are, and from none without any.

    To join and to leave costs 0.1 µs; a timer for each request, which nearly none waits long enough to see, 1.2.
    """

    __slots__ = ("_clock", "_every_s", "_is_set", "_members")

    def __init__(self, clock: Clock, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._members: set[Watched] = set()
        self._is_set = False

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Watched) -> None:
        self._members.add(member)
        if not self._is_set:
            self._set()

    def leave(self, member: Watched) -> None:
        self._members.discard(member)

    def _set(self) -> None:
        self._is_set = True
        self._clock.call_later(self._every_s, self._go)

    def _go(self) -> None:
        self._is_set = False
        if self._members:
            self._set()
            for member in tuple(self._members):
                member.look()


class Tasks:
    """Owns every background task of a part: none is lost to the garbage collector, all end with it."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def aclose(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
