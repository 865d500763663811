"""What all connections of a server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gatepass.api.turn import Turn
from gatepass.config.model import Limits
from gatepass.errors import GatepassError
from gatepass.transport.outbox import Outbox

Serve = Callable[[Turn], Awaitable[None]]

Refused = Callable[[GatepassError, str], None]
"""Is told of an error that a client gets without a request having been served, and of the client's address."""


@dataclass(frozen=True, slots=True)
class Reception:
    """Who serves a request, and with which bounds."""

    serve: Serve
    spare: Serve
    """Who serves the connections above `limits.connections`, of which a few are heard."""
    refused: Refused
    limits: Limits
    keep_alive_s: float
    """How long a connection may wait for its next request."""
    outbox: Outbox = field(default_factory=Outbox)
