"""Cancel work with a reason, bound it in time, and own the tasks that run it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from gatepass.clock import Clock

T = TypeVar("T")


class CancelScope:
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

    def cancel(self, reason: BaseException) -> None:
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
    cancel_scope = CancelScope()
    with cancel_scope:
        timer = clock.call_later(delay_s, lambda: cancel_scope.cancel(reason))
        try:
            return await work
        finally:
            timer.cancel()


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
