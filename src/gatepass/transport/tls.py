"""The trust of one hop."""

from __future__ import annotations

import ssl

from gatepass.config.network import Network


class Trust:
    """One context for all hops whose files are the same: each holds the system's CAs anew, 2.5 MiB of them."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}

    def of(self, network: Network) -> ssl.SSLContext:
        files = (network.ca_file, network.client_cert, network.client_key)
        if files not in self._contexts:
            self._contexts[files] = ssl_context(network)
        return self._contexts[files]


def ssl_context(network: Network) -> ssl.SSLContext:
    """The system's trust, the hop's own CA added to it, and the client certificate where one is set.

    Raises OSError (ssl.SSLError is one) where a file is missing or is no PEM.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if network.ca_file:
        context.load_verify_locations(network.ca_file)
    if network.client_cert:
        context.load_cert_chain(network.client_cert, network.client_key)
    return context
