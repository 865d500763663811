"""How a token is shown to an upstream, and what else its requests always hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import quote

from gatepass.call import Headers, Request, Secret
from gatepass.config.carry import BEARER, PLACE, Carry, unfit
from gatepass.observe.redaction import Redactor
from gatepass.upstream.headers import NEVER_UP

REREAD_S = 2.0
"""How old a static header may be that stands in a file: no stat call for each request."""
MASKED_CHARS = 16
"""A static header this long is taken for a secret in texts; shorter ones are names, such as `default`."""
NOTHING: Mapping[str, Secret] = MappingProxyType({})


class Carrier:
    """Puts a token into the requests to one upstream, and the upstream's static headers.

    What one token makes is made once and not once a request (25 µs for a long JWT). `headers` are
    static; their values are learned by `redactor`, and read again REREAD_S later.
    """

    __slots__ = (
        "_carry",
        "_fields",
        "_parameter",
        "_redactor",
        "_replaced",
        "_reread_s",
        "_static",
        "_static_fields",
        "_templates",
        "_token",
    )

    def __init__(
        self, carry: Carry = BEARER, headers: Mapping[str, Secret] = NOTHING, redactor: Redactor | None = None
    ) -> None:
        self._templates = tuple((_name(name), template) for name, template in carry.templates.items())
        self._static = tuple((_name(name), value) for name, value in headers.items())
        self._carry = carry
        self._replaced = frozenset(name for name, _ in (*self._templates, *self._static)) - NEVER_UP
        self._redactor = redactor or Redactor()
        self._token: Secret | None = None
        self._fields: Headers = ()
        self._static_fields: Headers = ()
        self._parameter = ""
        self._reread_s = -math.inf if self._static else math.inf

    def __repr__(self) -> str:
        return "Carrier(hidden)"

    def loaded(
        self, request: Request, token: Secret | None, now: float, anew: Callable[[], Request | None] | None = None
    ) -> Request:
        """`request` with `token`, where there is one, and the static headers, in place of its own of these names;
        `anew` as in Request.

        Raises ValueError, without the token in it, for one that no field can hold.
        """
        if now >= self._reread_s:
            self._read(now)
        if token is not self._token:
            self._prepare(token)
        if not self._fields and not self._parameter:
            return request
        kept = request.headers
        if self._replaced:
            kept = tuple(field for field in kept if field[0] not in self._replaced)
        url = f"{request.url}{'&' if '?' in request.url else '?'}{self._parameter}" if self._parameter else request.url
        fields = (*kept, *self._fields)
        return Request(request.method, url, fields, request.body, request.timeouts, request.fresh, request.upload, anew)

    def _prepare(self, token: Secret | None) -> None:
        fields, parameter = self._static_fields, ""
        if token is not None:
            text = sendable(token)
            fields = (*fields, *((name, template.replace(PLACE, text).encode()) for name, template in self._templates))
            parameter = f"{self._carry.query}={quote(text, safe='')}" if self._carry.query is not None else ""
        self._fields, self._parameter, self._token = fields, parameter, token

    def _read(self, now: float) -> None:
        """Take the static headers as they stand now; what cannot be read or sent leaves the last ones in place."""
        try:
            read = tuple((name, _value(value)) for name, value in self._static)
        except ValueError:
            if not self._static_fields:
                raise
        else:
            self._adopt(read)
        self._reread_s = now + REREAD_S

    def _adopt(self, read: tuple[tuple[bytes, str], ...]) -> None:
        for _, text in read:
            if len(text) >= MASKED_CHARS:
                self._redactor.learn(text, permanent=True)
        self._static_fields = tuple((name, text.encode()) for name, text in read)
        self._prepare(self._token)


def sendable(token: Secret) -> str:
    """The token's text, as a header can hold it.

    Raises ValueError, without the token in it, for one that none can hold: whatever else failed to
    look, nothing is smuggled into the request behind a line break.
    """
    text = token.reveal()
    if not text or not all("\x21" <= character <= "\x7e" for character in text):
        raise ValueError("the token is empty or holds a blank, a line break or a character beyond ASCII")
    return text


def _name(name: str) -> bytes:
    return name.lower().encode("ascii")


def _value(value: Secret) -> str:
    text = value.reveal()
    if fault := unfit(text):
        raise ValueError(fault)
    return text
