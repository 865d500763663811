import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of `gatepass serve`, which has a TLS transport of its own."""
    return {"uvloop": uvloop.new_event_loop}
