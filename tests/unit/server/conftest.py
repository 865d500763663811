import asyncio
from collections.abc import Callable

import pytest

from tests.unit.http_client.loop import DrivenLoop

REAL_SOCKETS = ("test_app.py", "test_listening.py")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """These tests use real sockets: the driven loop would wait for them without an end."""
    return {"real": asyncio.new_event_loop} if item.path.name in REAL_SOCKETS else {"driven": DrivenLoop}
