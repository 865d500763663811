"""An event loop whose time passes only when a test advances it."""

import asyncio
import types
from collections.abc import Generator

ITERATIONS = 8
"""As many turns as anything here needs to come to rest."""


class DrivenLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_s = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now_s


@types.coroutine
def one_iteration() -> Generator[None, None, None]:
    """Let everything run that is ready now, and nothing that it makes ready."""
    yield


async def rest() -> None:
    for _ in range(ITERATIONS):
        await one_iteration()


def driven() -> DrivenLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, DrivenLoop)
    return loop


async def advance(delay_s: float) -> None:
    driven().now_s += delay_s
    await rest()
