"""Hostile input, class by class. `make attacks` prints the table of conftest.py."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hypothesis import HealthCheck, settings

P = ParamSpec("P")
R = TypeVar("R")


def generated(test: Callable[P, R]) -> Callable[P, R]:
    """Decorate a property that records all its examples in one row, through the `attack` fixture."""
    return settings(suppress_health_check=[HealthCheck.function_scoped_fixture])(test)
