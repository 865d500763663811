"""The task that keeps a token ready, with traffic and without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from gatepass.runtime import Clock, Tasks

NAP_S = 5.0
"""It looks at the clock this often: timers stand still while a machine is suspended."""


class Keeper:
    """Calls `tend` over and over: it does what is due, and gives the seconds until the next look is worth it.

    `broke` is told of an exception that `tend` raised, by a source's bug; it is called again NAP_S later, or as soon
    as something rouses it.
    """

    def __init__(
        self, name: str, clock: Clock, tend: Callable[[], float], broke: Callable[[BaseException], object]
    ) -> None:
        self._name = name
        self._clock = clock
        self._tend = tend
        self._broke = broke
        self._wake = asyncio.Event()
        self._is_over = False

    def start(self, tasks: Tasks, pause_s: float = 0.0) -> None:
        """Begin after `pause_s`, in a task of `tasks`."""
        work = tasks.spawn(self._keep(pause_s), f"keeper of {self._name}")
        work.add_done_callback(partial(self._ended, tasks))

    def rouse(self) -> None:
        """Something has changed: look now."""
        self._wake.set()

    def stop(self) -> None:
        """Begin no more; the tasks' owner ends what runs."""
        self._is_over = True

    def _ended(self, tasks: Tasks, work: asyncio.Task[NoReturn]) -> None:
        if self._is_over or work.cancelled() or (error := work.exception()) is None:
            return
        self._broke(error)
        self.start(tasks, NAP_S)

    async def _keep(self, pause_s: float) -> NoReturn:
        if pause_s > 0:
            await self._nap(pause_s)
        while True:
            await self._nap(min(NAP_S, self._tend()))

    async def _nap(self, nap_s: float) -> None:
        timer = self._clock.call_later(nap_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()
