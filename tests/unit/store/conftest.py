"""A clock that the test drives."""

from __future__ import annotations

import pytest

from tests.unit.clock import DrivenClock


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()
