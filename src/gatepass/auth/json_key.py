"""A key that came inside a JSON object."""

from __future__ import annotations

from typing import Any

import msgspec

MOST_CHARS = 4096


def unwrapped_key(presented: str) -> str | None:
    """The key in `{"api_key": "…", …}`, None where `presented` is no such object.

    RAGFlow stores what its form collected as one JSON text, and some versions send that whole text as the bearer
    (infiniflow/ragflow#17757).
    """
    if not presented.startswith("{") or len(presented) > MOST_CHARS:
        return None
    try:
        said: Any = msgspec.json.decode(presented)
    except (ValueError, RecursionError):
        return None
    key = said.get("api_key")
    return key.strip() or None if isinstance(key, str) else None
