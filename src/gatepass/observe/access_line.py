"""The access line: an allow-list, no header, no body, no query string."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gatepass.observe.exchange import Exchange

PATH_LOG_CHARS = 256


class AccessLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is None says nothing and is left out. A struct: written in a fifth of the time that a dict takes."""

    id: str
    method: str
    path: str
    operation: str
    caller: str | None = None
    model: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    stream: bool | None = None
    status: int | None = None
    outcome: str = ""
    code: str | None = None
    hop: str | None = None
    reason: str | None = None
    attempts: int | None = None
    renewed: bool | None = None
    repeated_stale: bool | None = None
    adapted: tuple[str, ...] | None = None
    tried: tuple[str, ...] | None = None
    failover: tuple[str, ...] | None = None
    duration_s: float | None = None
    ttft_s: float | None = None
    token_wait_s: float | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    events: int | None = None
    usage: Mapping[str, int | None] | None = None
    upstream_request_id: str | None = None

    @classmethod
    def of(cls, exchange: Exchange) -> AccessLine:
        inbound, error = exchange.inbound, exchange.error
        return cls(
            id=inbound.id,
            method=inbound.method,
            path=inbound.path[:PATH_LOG_CHARS],
            operation=exchange.operation,
            caller=exchange.caller,
            model=exchange.model,
            upstream=exchange.upstream,
            upstream_model=exchange.upstream_model,
            stream=exchange.stream or None,
            status=exchange.status,
            outcome=exchange.outcome,
            code=error.public_code if error else None,
            hop=error.hop if error else None,
            reason=error.message if error else None,
            attempts=exchange.attempts or None,
            renewed=exchange.renewed or None,
            repeated_stale=exchange.repeated_stale or None,
            adapted=exchange.adapted or None,
            tried=exchange.tried or None,
            failover=exchange.failover or None,
            duration_s=_rounded(exchange.ended_s),
            ttft_s=_rounded(exchange.first_byte_s),
            token_wait_s=_rounded(exchange.token_wait_s) or None,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            events=exchange.events or None,
            usage=exchange.usage,
            upstream_request_id=exchange.upstream_request_id,
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
