"""JSON that is made of what an upstream sent: some of it built, the rest as it came."""

from __future__ import annotations

from typing import Any

import msgspec


def encoded(value: Any) -> bytes:
    """`value` as JSON in UTF-8. Raises ValueError where its raw parts are none: msgspec copies them unread."""
    text = msgspec.json.encode(value)
    if not text.isascii():
        text.decode()
    return text
