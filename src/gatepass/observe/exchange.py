"""The whole story of one request, collected while it goes down the street."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from gatepass.call import Inbound
from gatepass.errors import GatepassError

BODY_LOG_CHARS = 2_000
PATH_LOG_CHARS = 256
BODY_KEPT_CHARS = BODY_LOG_CHARS + 16 * 1024
"""More than is logged: a secret that begins before the cut is known by its value only where all of it is here."""


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
    tried: tuple[str, ...] = ()
    """What was tried in vain to make the upstream take the request."""
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    events: int = 0
    body_read_s: float | None = None
    token_wait_s: float = 0.0
    head_s: float | None = None
    first_byte_s: float | None = None
    ended_s: float | None = None
    usage: Mapping[str, int | None] | None = None
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
        )

    def take_back(self, share: Exchange) -> None:
        self.attempts += share.attempts
        self.renewed = self.renewed or share.renewed
        self.repeated_stale = self.repeated_stale or share.repeated_stale
        self.token_wait_s = max(self.token_wait_s, share.token_wait_s)
        self.token = share.token
        self.upstream_request_id = share.upstream_request_id

    @property
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

    def fields(self) -> dict[str, Any]:
        """The access line: an allow-list, no header, no body, no query string."""
        error = self.error
        return {
            "id": self.inbound.id,
            "method": self.inbound.method,
            "path": self.inbound.path[:PATH_LOG_CHARS],
            "operation": self.operation,
            "caller": self.caller,
            "model": self.model,
            "upstream": self.upstream,
            "upstream_model": self.upstream_model,
            "stream": self.stream or None,
            "status": self.status,
            "outcome": self.outcome,
            "code": error.public_code if error else None,
            "hop": error.hop if error else None,
            "reason": error.message if error else None,
            "attempts": self.attempts or None,
            "renewed": self.renewed or None,
            "repeated_stale": self.repeated_stale or None,
            "adapted": list(self.adapted) or None,
            "tried": list(self.tried) or None,
            "duration_s": _rounded(self.ended_s),
            "ttft_s": _rounded(self.first_byte_s),
            "token_wait_s": _rounded(self.token_wait_s) or None,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "events": self.events or None,
            "usage": self.usage,
            "upstream_request_id": self.upstream_request_id,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
