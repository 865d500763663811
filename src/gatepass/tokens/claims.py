"""What a JWT says of itself that people may see."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jwt

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


def safe_claims(text: str, wall_s: float) -> dict[str, str]:
    """The claims of SAFE that the JWT `text` has, each in words; nothing where it is no JWT. Nothing is verified.

    Moments are told in UTC and from `wall_s`, this machine's clock: a difference of clocks shows.
    """
    try:
        claims = jwt.decode(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return {}
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
