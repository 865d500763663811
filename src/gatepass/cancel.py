"""Cancel work with a reason, limit its time, wait for the first of several, and own background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from gatepass.clock import Clock

T = TypeVar("T")


class CancelScope:
    """A block of code that other tasks can cancel with a reason.

    While a task runs inside `with scope:`, `scope.cancel(reason)` cancels the task at its next await, and the block
    raises `reason`. Any other cancellation of the task stays a CancelledError. A client disconnect, a deadline and a
    drain end a request in this way.
    """

    # defaults on the class, so that `InFlightRequest` need not call `__init__` for each request
    _task: asyncio.Task[Any] | None = None
    _reason: BaseException | None = None
    _cancelling = 0

    @property
    def reason(self) -> BaseException | None:
        return self._reason

    def cancel(self, reason: BaseException) -> None:
        """Cancel the block with `reason`. Has no effect after the first call or after the block has ended."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a CancelScope cancels a task: enter it inside one")
        self._task, self._cancelling = task, task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._reason is None or task is None:
            return
        try:
            # if the task was also cancelled from outside, that cancellation has precedence
            if task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise self._reason from None
        finally:
            # the traceback of the reason refers to this frame: break the reference cycles
            self._reason = None
            del error, trace, task


async def timeout(clock: Clock, delay_s: float, work: Awaitable[T], reason: BaseException) -> T:
    """Await `work` for at most `delay_s` seconds of `clock`, then raise `reason`."""
    cancel_scope = CancelScope()
    timer = clock.call_later(delay_s, partial(cancel_scope.cancel, reason))
    del reason  # its traceback refers to this frame
    with cancel_scope:
        try:
            return await work
        finally:
            timer.cancel()


async def first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Run `works` until one of them ends, and cancel the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Tasks:
    """Own background tasks, so that none is garbage collected while it runs and all end on `aclose`."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def keep(
        self,
        work: Callable[[], Coroutine[Any, Any, object]],
        name: str,
        on_fault: Callable[[BaseException], object],
        pause: Callable[[], Awaitable[object]],
    ) -> None:
        """Run `work`. If an exception ends it before `aclose`, call `on_fault`, and run it again after `pause`."""

        async def again() -> None:
            await pause()
            await work()

        def ended(task: asyncio.Task[object]) -> None:
            if not (task.cancelled() or self._closed) and (error := task.exception()) is not None:
                on_fault(error)
                self.spawn(again(), name).add_done_callback(ended)

        self.spawn(work(), name).add_done_callback(ended)

    async def aclose(self) -> None:
        """Cancel the running tasks and wait until they have ended."""
        self._closed = True
        running = list(self._running)  # a copy, because a task that ends leaves the set
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
