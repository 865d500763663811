"""One upstream's reply, and the words to speak of it."""

from __future__ import annotations

from html import unescape
from http import HTTPStatus

import msgspec

from gatepass.call import Headers
from gatepass.error_body import Mask, clean, unmasked
from gatepass.upstream import form
from gatepass.upstream.hints import HINTS, Hint

EXCERPT_CHARS = 500
TITLE_CHARS = 100


class Reply(msgspec.Struct, frozen=True):
    """A reply held whole (`body` may be cut), who sent it, and when `wall_s` it came."""

    upstream: str
    status: int
    headers: Headers
    body: bytes = b""
    host: str = ""
    wall_s: float = 0.0
    mask: Mask = unmasked
    hints: tuple[Hint, ...] = HINTS
    """The advice that there is for what this upstream says."""
    has_credential: bool = True
    """Whether the request that it answers was sent with a credential's token."""

    @property
    def sender(self) -> str:
        return f'The upstream "{self.upstream}"' + (f" ({self.host})" if self.host else "")

    @property
    def answered(self) -> str:
        """`The upstream "chat" (host) answered 503 Service Unavailable`"""
        return f"{self.sender} answered {self.status} {_phrase(self.status)}".rstrip()

    @property
    def excerpt(self) -> str:
        """The beginning of a body that is neither JSON nor a page."""
        text = clean(self.body.decode("utf-8", "replace"), self.mask, EXCERPT_CHARS)
        return text or f"{self.answered} with a body without a text."

    @property
    def page(self) -> str:
        """An HTML page by its title; never the page itself."""
        title = form.title_of(self.body[: form.WHOLE_BYTES].decode("utf-8", "replace"))
        return f'an HTML page titled "{clean(unescape(title), self.mask, TITLE_CHARS)}"' if title else "an HTML page"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
