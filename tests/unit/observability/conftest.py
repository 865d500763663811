import asyncio
from collections.abc import Callable

import pytest

from tests.unit.http_client.loop import DrivenLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The tests of intervals drive the time. The log itself runs on a real loop."""
    return {"driven": DrivenLoop} if item.path.name == "test_access_log.py" else {"real": asyncio.new_event_loop}
