"""Which Transport a hop gets."""

from __future__ import annotations

import ssl

from gatepass.config.network import Network
from gatepass.transport.lean import LeanTransport
from gatepass.transport.seam import Transport


def open_transport(network: Network, max_connections: int, context: ssl.SSLContext) -> Transport:
    """The lean one, or the pooled one where the hop goes through a proxy. Opens nothing yet."""
    if network.proxy is None:
        return LeanTransport(max_connections, context)
    from gatepass.transport.pooled import PooledTransport  # its library is loaded only where it is needed

    return PooledTransport(network, max_connections, context)
