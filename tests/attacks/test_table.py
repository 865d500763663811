"""The table of `make attacks` reports what its tests found."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.attacks.conftest import Attack


def occupy() -> None:
    until_s = time.thread_time() + 0.06
    while time.thread_time() < until_s:
        pass


@pytest.mark.parametrize("place", ["first", "callback", "timer"])
async def test_loop_that_is_occupied_for_60_ms_is_measured(place: str) -> None:
    row, loop, is_over = Attack("planted"), asyncio.get_running_loop(), asyncio.Event()

    def occupy_and_end() -> None:
        occupy()
        is_over.set()

    async with row.on_this_loop():
        if place == "first":
            occupy()
            loop.call_soon(is_over.set)
        elif place == "callback":
            loop.call_soon(occupy_and_end)
        else:
            loop.call_later(0.01, occupy_and_end)
        await is_over.wait()
    assert 0.06 <= row.loop_s < 0.12
