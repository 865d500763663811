"""The thread that a loop gives work to: a test waits until it rests, and for no time beyond that."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

from tests.unit.clock import settle

P = ParamSpec("P")
T = TypeVar("T")

BOUND_S = 10.0


class OneThread(ThreadPoolExecutor):
    """Does what the loop gives to threads, one thing after the other."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._given = 0

    @classmethod
    def of_this_loop(cls) -> Self:
        """Make an executor the default of the running loop, which also shuts it down."""
        made = cls()
        asyncio.get_running_loop().set_default_executor(made)
        return made

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self._given += 1
        return super().submit(fn, *args, **kwargs)

    async def rest(self) -> None:
        """Wait until the executor has finished all its work, and the loop its callbacks."""
        loop, seen = asyncio.get_running_loop(), -1
        async with asyncio.timeout(BOUND_S):
            while seen != self._given:
                await settle()
                seen = self._given + 1
                await loop.run_in_executor(self, lambda: None)  # its turn comes when all before it is done
                await settle()
