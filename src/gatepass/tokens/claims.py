"""What a JWT says of itself, and what of that people may see. Nothing is verified: that is the upstream's business."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

SAFE = ("iss", "aud", "sub", "client_id", "azp", "appid", "tid", "scope", "scp", "iat", "nbf", "exp")
"""The claims that are shown, in this order. All others may be private: names, mail addresses, groups."""
MOMENTS = frozenset(("iat", "nbf", "exp"))
LONGEST_CHARS = 200
CLIENTS = ("client_id", "azp", "appid", "cid")
"""Claims that name the client (RFC 9068 2.2, OpenID Connect Core 2, Entra, Okta)."""
_MACHINE = re.compile(
    r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|system:serviceaccount:[^@\s]+|[^@\s]+@clients", re.IGNORECASE
)
"""Subjects that are no person's name: a UUID, a Kubernetes service account, a client of Auth0."""


def claims_of(text: str) -> dict[str, Any] | None:
    """All claims of the signed JWT `text`, or None where it is none (RFC 7515 3.1, RFC 7519 7.2).

    PyJWT is for signing alone: where cryptography is installed too, importing it takes 20 MB and 365 M instructions,
    a seventh of a start.
    """
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        header, claims, _ = [_decoded(part) for part in parts]
        found = json.loads(claims) if isinstance(json.loads(header), dict) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _decoded(part: str) -> bytes:
    """RFC 7515 2: base64url without its padding."""
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def safe_claims(text: str, wall_s: float) -> dict[str, str]:
    """The claims of SAFE that the JWT `text` has, each in words; nothing where it is no JWT.

    Moments are told in UTC and from `wall_s`, this machine's clock: a difference of clocks shows.
    """
    claims = claims_of(text) or {}
    shown = {name: _words(name, claims[name], wall_s) for name in SAFE if name in claims}
    return shown | {"sub": _subject(claims)} if "sub" in shown else shown


def _subject(claims: Mapping[str, Any]) -> str:
    """The subject where it is plainly a client; of anything else, a person's name or mail perhaps, its length."""
    subject = claims["sub"]
    if not isinstance(subject, str):
        return "not shown"
    if _MACHINE.fullmatch(subject) or subject in [claims.get(name) for name in CLIENTS]:
        return _words("sub", subject, 0.0)
    return f"not shown, {len(subject)} characters: it may be a person's name"


def _words(name: str, value: Any, wall_s: float) -> str:
    if name in MOMENTS and (moment := _moment(value, wall_s)):
        return moment
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    shown = "".join(char if char.isprintable() else "?" for char in said[:LONGEST_CHARS])
    return shown if len(said) <= LONGEST_CHARS else f"{shown}…"


def _moment(value: Any, wall_s: float) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        date = datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    away_s = value - wall_s
    told = f"in {away_s:.0f} s" if away_s >= 0 else f"{-away_s:.0f} s ago"
    return f"{date:%Y-%m-%d %H:%M:%S}Z ({told})"
