"""Hostile input, class by class. `make attacks` prints the table of conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hypothesis import HealthCheck, settings

P = ParamSpec("P")
R = TypeVar("R")


def generated(test: Callable[P, R]) -> Callable[P, R]:
    """Decorate a property that counts its examples with the `attack` fixture: one row holds for all of them."""
    return settings(suppress_health_check=[HealthCheck.function_scoped_fixture])(test)
