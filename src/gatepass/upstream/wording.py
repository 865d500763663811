"""Other people's words, made fit to be quoted: masked first, then cleaned, then cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

MESSAGE_CHARS = 2000
RAW_BYTES = 4096
RAW_DEPTH = 64

Mask = Callable[[str], str]
"""Takes known secrets out of a text (`Redactor.mask`)."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")
_BLANKS = re.compile(r"[ \t]+")
_LINES = re.compile(r" ?\n ?(?:\n\s*)?")


def unmasked(text: str) -> str:
    """The mask of somebody who knows no secret."""
    return text


def clean(text: str, mask: Mask, limit_chars: int = MESSAGE_CHARS) -> str:
    """`text` without secrets, control characters and runs of blanks, at most `limit_chars` long.

    Line breaks stay (one empty line at most). The mask comes first: a cut secret is no longer known
    by its value.
    """
    text = mask(text).encode("utf-8", "replace").decode("utf-8")
    text = _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _LINES.sub(_line_break, _BLANKS.sub(" ", text)).strip()
    return text if len(text) <= limit_chars else text[: limit_chars - 1].rstrip() + "…"


def _line_break(run: re.Match[str]) -> str:
    return "\n\n" if run[0].count("\n") > 1 else "\n"


def compact(value: Any) -> str | None:
    """`value` as one line of JSON, or None where it cannot be written."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        return None


def quotable(value: Any, mask: Mask) -> Any:
    """`value` with every text in it masked; None where it takes more than RAW_BYTES as JSON, or nests deeper
    than RAW_DEPTH."""
    text = compact(value)
    if text is None or len(text.encode("utf-8", "replace")) > RAW_BYTES:
        return None
    try:
        return _masked(value, mask, RAW_DEPTH)
    except RecursionError:
        return None


def _masked(value: Any, mask: Mask, depth: int) -> Any:
    """Raises RecursionError below `depth`: the interpreter's own bound differs from version to version."""
    if depth < 0:
        raise RecursionError
    if isinstance(value, str):
        return mask(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_masked(item, mask, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_masked(name, mask, depth): _masked(item, mask, depth - 1) for name, item in value.items()}
    return value
