"""What all connections of a server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gatepass.api.turn import Turn
from gatepass.config.server import Limits

Serve = Callable[[Turn], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reception:
    """Who serves a request, and with which bounds."""

    serve: Serve
    limits: Limits
    keep_alive_s: float
    """How long a connection may wait for its next request."""
