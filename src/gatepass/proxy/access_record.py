"""The access record: an allow-list, no header, no body, no query string."""

from __future__ import annotations

import msgspec

PATH_LOG_CHARS = 256


class AccessRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one request came to, written to the log once and never read.

    A field with its default is left out. A struct: written in a fifth of the time that a dict takes.
    """

    id: str
    method: str
    path: str
    operation: str
    caller: str = ""
    model: str = ""
    upstream: str | None = None
    upstream_model: str | None = None
    stream: bool = False
    status: int | None = None
    outcome: str = ""
    code: str | None = None
    hop: str | None = None
    reason: str | None = None
    attempts: int = 0
    renewed: bool = False
    repeated_stale: bool = False
    adapted: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    failover: tuple[str, ...] = ()
    duration_s: float | None = None
    ttft_s: float | None = None
    token_wait_s: float | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    events: int = 0
    usage: msgspec.Struct | None = None
    upstream_request_id: str | None = None
    empty_answer: bool = False


def rounded(seconds: float | None) -> float | None:
    """As `round(seconds, 4)` of a value that is not negative, in 0.16 µs in place of 0.45 (CPython 3.11).

    To multiply and to add round too, yet never past a whole number: only where they end on one can the two differ.
    """
    if seconds is None:
        return None
    shifted = seconds * 10_000.0 + 0.5
    whole = shifted // 1.0
    return whole / 10_000.0 if whole != shifted else round(seconds, 4)
