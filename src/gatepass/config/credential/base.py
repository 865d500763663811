"""What every credential has, whatever mints its tokens."""

from __future__ import annotations

from gatepass.config.block import Block, Seconds
from gatepass.config.carry import BEARER, Carry
from gatepass.config.network import Network


class Credential(Block):
    """What all credentials share."""

    timeout_s: Seconds = 10.0
    """Seconds for one whole fetch, however slowly the issuer dribbles."""
    default_ttl_s: Seconds = 240.0
    """Seconds that a token lives where neither the reply nor the token itself tells it."""
    max_ttl_s: Seconds = 3600.0
    """The longest life, in seconds, to believe where only the reply's word stands for it."""
    network: Network = Network()
    """The way to the issuer, which may differ from the upstream's."""
    allow_plain_http: bool = False
    """Send this credential's secret over plain HTTP beyond loopback."""
    carry: Carry | None = None
    """How its token is shown to upstreams; None: as is usual for this kind, mostly `Authorization: Bearer …`."""

    @property
    def usual_carry(self) -> Carry:
        """How tokens of this kind are shown where `carry` says nothing; kinds with ways of their own override it."""
        return BEARER

    @property
    def carried(self) -> Carry:
        """How its token is shown where the upstream does not say otherwise."""
        return self.carry or self.usual_carry
