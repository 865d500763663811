"""The trust of one hop."""

from __future__ import annotations

import ssl

from gatepass.config.model import Network


def ssl_context(network: Network) -> ssl.SSLContext:
    """The system's trust, the hop's own CA added to it, and the client certificate where one is set.

    Raises OSError (ssl.SSLError is one) where a file is missing or is no PEM.
    """
    context = ssl.create_default_context()
    if network.ca_file:
        context.load_verify_locations(network.ca_file)
    if network.client_cert:
        context.load_cert_chain(network.client_cert, network.client_key)
    return context
