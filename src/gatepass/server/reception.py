"""What all connections of a server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from gatepass.config.model import Limits
from gatepass.errors import GatepassError
from gatepass.http_client.write_batcher import Outbox
from gatepass.proxy.in_flight import Live
from gatepass.server.connection_shares import ConnectionShares, TrustedProxies
from gatepass.server.cycle import Turn

Serve = Callable[[Turn], Awaitable[None]]

Refused = Callable[[GatepassError, str], None]
"""Is told of an error that a client gets without a request having been served, and of the client's address."""


class Evictable(Protocol):
    """A connection, as far as the shares know it."""

    def evict(self) -> None:
        """Close at once: others need the room."""
        ...


@dataclass(frozen=True, slots=True)
class Reception:
    """Who serves a request, and with which bounds."""

    serve: Serve
    refused: Refused
    limits: Limits
    keep_alive_s: float
    """How long a connection may wait for its next request."""
    proxies: TrustedProxies
    shares: ConnectionShares[Evictable]
    live: Live
    outbox: Outbox = field(default_factory=Outbox)
