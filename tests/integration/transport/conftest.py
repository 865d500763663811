"""The same promises on both event loops, asyncio's own and the one gatepass runs on, and over TLS on every way."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from tests.integration.transport.hand import DIRECT, TLS_TUNNEL, TUNNEL, Way


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=[DIRECT, TUNNEL, TLS_TUNNEL], ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found
