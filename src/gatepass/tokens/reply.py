"""What an issuer sent back, before anybody knows whether it is a token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gatepass.types import Headers, header

REPLY_BYTES = 64 * 1024
"""The largest reply that is read: a token is a few kilobytes."""
LONGEST_WORDS = 200
_TITLE = re.compile(r"<title[^>]{0,200}>", re.IGNORECASE)
_TITLE_WITHIN = 4096

Mask = Callable[[str], str]
"""Takes secrets out of a text."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. Its headers and body may hold a token, so they are not printed."""

    status: int
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def content_type(self) -> str:
        value = header(self.headers, b"content-type") or b""
        return value.decode("latin-1").partition(";")[0].strip().lower()

    @property
    def text(self) -> str:
        return self.body.decode("utf-8-sig", "replace")


class NotJson(ValueError):
    """The body is no JSON document."""


def document_of(text: str) -> Any:
    """The JSON document `text`; raises NotJson, for NaN and bottomless nesting too."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise NotJson from None


def _refuse(constant: str) -> Any:
    raise NotJson(constant)


def is_html(reply: Reply) -> bool:
    return "html" in reply.content_type or reply.text.lstrip()[:200].lower().startswith(("<!doctype html", "<html"))


def page_title(text: str) -> str | None:
    """The whole title: `folded` cuts it, and masks it before."""
    found = _TITLE.search(text[:_TITLE_WITHIN])
    return text[found.end() :].partition("<")[0] or None if found else None


def folded(text: str, mask: Mask) -> str:
    """`text` for one line of a log: secrets masked (before it is cut), white space folded, at most
    LONGEST_WORDS characters, all printable.
    """
    words = "".join(c if c.isprintable() else " " for c in mask(text)).split()
    line = " ".join(words)
    return line if len(line) <= LONGEST_WORDS else line[: LONGEST_WORDS - 1] + "…"
