"""`upstreams.NAME`: one server behind gatepass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from gatepass.config.block import HEADER_NAME, BaseUrl, Block, Name
from gatepass.config.network import Network, TimeoutSettings

NEVER_FORWARDED = frozenset(
    (
        *("authorization", "x-api-key", "api-key", "cookie", "proxy-authorization", "proxy-authenticate"),
        *("host", "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authentication-info", "expect"),
        *("accept", "accept-encoding", "content-encoding", "content-length", "content-type"),
    )
)
"""Request headers that belong to one hop, to gatepass itself, or hold the client's key."""


class Upstream(Block):
    base_url: BaseUrl
    """Up to and with the version, such as `https://llm.corp.example/v1`."""
    dialect: Literal["openai"] = "openai"
    """The protocol that the upstream speaks."""
    credential: Name | None = None
    """A name under `credentials`; None sends no credential."""
    network: Network = Network()
    """The way to this upstream."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """How long to wait for it."""
    max_connections: Annotated[int, Field(gt=0)] | None = None
    """Connections at once; None: as many as `limits.connections`."""
    forward_headers: list[Annotated[str, Field(pattern=HEADER_NAME)]] = []
    """Request headers of the client to send on, beside the built-in list."""
    repeat_stale: bool = True
    """Send a request again, once, when a reused connection closed without one byte of answer."""
    allow_plain_http: bool = False
    """Send the credential over plain HTTP beyond loopback."""

    @field_validator("forward_headers")
    @classmethod
    def _no_hop_headers(cls, names: list[str]) -> list[str]:
        refused = [name for name in names if name.lower() in NEVER_FORWARDED or name.lower().startswith("x-gatepass-")]
        if refused:
            raise ValueError(f"{', '.join(refused)} never goes up: gatepass makes it itself, or it holds a key")
        return names
