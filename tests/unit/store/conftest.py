"""A clock that the test drives."""

import pytest

from tests.unit.clock import DrivenClock


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()
