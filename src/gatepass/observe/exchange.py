"""The whole story of one request, collected while it goes down the street."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from gatepass.call import Inbound
from gatepass.errors import GatepassError

BODY_LOG_CHARS = 2_000
BODY_KEPT_CHARS = BODY_LOG_CHARS + 16 * 1024
"""More than is logged: a secret that begins before the cut is known by its value only where all of it is here."""
IDS_LOG_CHARS = 1_000
"""Of the upstream's ids, where many requests were sent for one."""


class Exchange(msgspec.Struct):
    """Times are seconds since the request arrived. Only `observe` reads it, only the street writes it."""

    inbound: Inbound
    operation: str = "none"
    caller: str | None = None
    model: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    stream: bool = False
    attempts: int = 0
    renewed: bool = False
    repeated_stale: bool = False
    adapted: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    """What of `adapted` was done because of refusals, of this request or of others before it."""
    tried: tuple[str, ...] = ()
    """What was tried in vain to make the upstream take the request."""
    failover: tuple[str, ...] = ()
    """The targets before the last one, each as `upstream=code`: they were not reached, and the next was asked."""
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    events: int = 0
    token_wait_s: float = 0.0
    head_s: float | None = None
    first_byte_s: float | None = None
    ended_s: float | None = None
    usage: msgspec.Struct | None = None
    """The counts of tokens that the upstream told."""
    upstream_request_id: str | None = None
    error: GatepassError | None = None
    client_gone: bool = False
    token: Any = None
    """The Token of the last attempt, for whoever has to drop it."""
    keeps_bodies: bool = False
    bodies: dict[str, str] = {}

    @classmethod
    def silent(cls) -> Self:
        """For a request of gatepass's own that no client waits for and no access line tells of."""
        return cls(Inbound("", "", "", (), "", 0.0))

    def share(self) -> Exchange:
        """The story of one of several requests that are sent for this one, to be taken back."""
        return Exchange(
            self.inbound,
            model=self.model,
            upstream=self.upstream,
            upstream_model=self.upstream_model,
            token=self.token,
            keeps_bodies=self.keeps_bodies,
        )

    def take_back(self, share: Exchange) -> None:
        """What a share that failed has to tell stands first: no cut takes it away."""
        told = (self, share) if share.error is None else (share, self)
        self.attempts += share.attempts
        self.renewed = self.renewed or share.renewed
        self.repeated_stale = self.repeated_stale or share.repeated_stale
        self.token_wait_s = max(self.token_wait_s, share.token_wait_s)
        self.token = share.token
        self.adapted = tuple(dict.fromkeys((*self.adapted, *share.adapted)))
        ids = [one.upstream_request_id for one in told if one.upstream_request_id]
        self.upstream_request_id = ",".join(ids)[:IDS_LOG_CHARS] or None
        for which in share.bodies:
            texts = [one.bodies[which] for one in told if which in one.bodies]
            self.bodies[which] = "\n".join(texts)[:BODY_KEPT_CHARS]

    def outcome(self) -> str:
        """One of ok, error, client_gone: the closed set that metrics count by."""
        if self.client_gone:
            return "client_gone"
        return "error" if self.error is not None else "ok"

    def keep_body(self, which: str, data: bytes) -> None:
        """Remember the beginning of a body, where `log.bodies` asks for it."""
        if not self.keeps_bodies:
            return
        held = self.bodies.get(which, "")
        if len(held) < BODY_KEPT_CHARS:
            self.bodies[which] = (held + data[:BODY_KEPT_CHARS].decode("utf-8", "replace"))[:BODY_KEPT_CHARS]
