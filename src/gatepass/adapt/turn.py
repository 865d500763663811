"""Waiting for one's turn where many requests meet a model that nobody knows yet."""

from __future__ import annotations

import asyncio

from gatepass.adapt.learning import Learning
from gatepass.call import Call
from gatepass.runtime import Clock


async def my_turn(learning: Learning, call: Call, clock: Clock) -> None:
    """Returns when `call` may be planned: at once, nearly always (see crowd.py). Waits MOST_WAIT_S at most."""
    while (left_s := learning.wait_s(call, clock.now())) > 0:
        news = asyncio.Event()
        end = learning.listen(news.set)
        timer = clock.call_later(left_s, news.set)
        try:
            await news.wait()
        finally:
            timer.cancel()
            end()
