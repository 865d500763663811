"""`network` and `timeouts`: the way over one hop, and how long to wait on it."""

from __future__ import annotations

from pydantic import model_validator

from gatepass.call import Timeouts
from gatepass.config.block import Block, ProxyUrl, Seconds, SecretText


class Network(Block):
    ca_file: str | None = None
    """PEM certificates to trust in addition to the system's."""
    proxy: ProxyUrl | None = None
    """An HTTP proxy for this hop, such as `http://proxy.corp.example:3128`."""
    proxy_auth: SecretText | None = None
    """`user:password` for the proxy."""
    client_cert: str | None = None
    """A PEM certificate (chain) to show to the server."""
    client_key: str | None = None
    """Its key, where `client_cert` does not hold it."""
    from_env: bool = False
    """Let HTTP_PROXY, HTTPS_PROXY and NO_PROXY choose the proxy of this hop."""

    @model_validator(mode="after")
    def _key_needs_cert(self) -> Network:
        if self.client_key and not self.client_cert:
            raise ValueError("client_key needs client_cert beside it")
        if self.proxy_auth is not None and self.proxy is None:
            raise ValueError("proxy_auth needs proxy beside it")
        if self.proxy and self.from_env:
            raise ValueError("proxy and from_env exclude each other")
        return self


class TimeoutSettings(Block):
    connect_s: Seconds = 5.0
    """Seconds until the connection stands, TLS included."""
    first_byte_s: Seconds = 600.0
    """Seconds from the request's first byte to the head of the reply."""
    idle_s: Seconds = 300.0
    """Seconds between two pieces of the reply."""
    total_s: Seconds | None = None
    """Seconds over all attempts; None is no bound of its own."""

    def upon(self, base: TimeoutSettings | None) -> TimeoutSettings:
        """These, and of `base` those that are not set here."""
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return self if base is None else base.model_copy(update=own)

    def value(self) -> Timeouts:
        return Timeouts(self.connect_s, self.first_byte_s, self.idle_s, self.total_s)
