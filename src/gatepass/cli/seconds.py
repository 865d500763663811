"""Seconds as people read them."""

from __future__ import annotations

WHOLE_FROM_S = 10.0
"""From here on they are told without fractions."""


def rounded(seconds: float) -> str:
    """Cut off, never up: no token lives longer than is said."""
    return f"{int(seconds)}" if seconds >= WHOLE_FROM_S else f"{int(seconds * 10) / 10:g}"
