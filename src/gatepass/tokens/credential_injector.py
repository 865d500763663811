"""How a token is shown to an upstream, and what else its requests always hold."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import quote

from gatepass.config.network import BEARER_PLACEMENT, TOKEN_PLACEHOLDER, TokenPlacement, header_value_error
from gatepass.config.references import UnresolvedReference
from gatepass.observability.redaction import Redactor
from gatepass.types import NEVER_UP, Headers, OutboundRequest, Secret

MASKED_CHARS = 16
"""A static header this long is taken for a secret in texts; shorter ones are names, such as `default`."""
logger = logging.getLogger("gatepass.upstream")


class StaticHeader:
    """`field` is the header as it was last good: while a file is replaced it is away, empty or half written for a
    moment, and no request fails of that. Each change for the worse is one line of the log, without the value.

    Raises UnresolvedReference, which names `setting`, where there is no good value to begin with.
    """

    __slots__ = ("_error", "_redactor", "_setting", "_value", "field")

    def __init__(self, name: bytes, value: Secret, setting: str, redactor: Redactor) -> None:
        self._value = value
        self._setting = setting
        self._redactor = redactor
        self._error: str | None = None
        try:
            self.field = (name, self._read())
        except ValueError as error:
            raise UnresolvedReference(f"{setting}: {error}") from None

    def __repr__(self) -> str:
        return f"StaticHeader({self._setting})"

    @property
    def changes(self) -> bool:
        return self._value.changes

    def reload(self) -> None:
        """Take the value as it stands now, where it is good."""
        try:
            self.field = (self.field[0], self._read())
        except ValueError as error:
            self._log_change(str(error))
        else:
            self._log_change(None)

    def _read(self) -> bytes:
        text = self._value.reveal()
        if fault := header_value_error(text) if text else "is empty":
            raise ValueError(fault)
        if len(text) >= MASKED_CHARS:
            self._redactor.learn(text, self._setting)
        return text.encode()

    def _log_change(self, error_text: str | None) -> None:
        if error_text == self._error:
            return
        self._error = error_text
        fields: dict[str, object] = {"setting": self._setting}
        if error_text is None:
            logger.info("header_reloaded", extra={"fields": fields})
        else:
            logger.warning("header_unreadable", extra={"fields": fields | {"reason": error_text}})


REREAD_S = 2.0
"""How old a static header may be that stands in a file: no stat call for each request."""
NOTHING: Mapping[str, Secret] = MappingProxyType({})


class CredentialInjector:
    """Puts a token into the requests to one upstream, and the upstream's static headers.

    What one token makes is made once and not once a request (25 µs for a long JWT). `headers` are
    static and those of `upstreams.UPSTREAM`; their values are learned by `redactor`, and read again
    REREAD_S later where they may change. Raises UnresolvedReference where one cannot be read to begin with.
    """

    __slots__ = (
        "_fields",
        "_parameter",
        "_placement",
        "_replaced",
        "_reread_s",
        "_static",
        "_static_fields",
        "_templates",
        "_token",
    )

    def __init__(
        self,
        placement: TokenPlacement = BEARER_PLACEMENT,
        headers: Mapping[str, Secret] = NOTHING,
        redactor: Redactor | None = None,
        upstream: str = "NAME",
    ) -> None:
        masking = redactor or Redactor()
        self._templates = tuple((_name(name), template) for name, template in placement.templates.items())
        self._static = tuple(
            StaticHeader(_name(name), value, f"upstreams.{upstream}.headers.{name}", masking)
            for name, value in headers.items()
        )
        self._placement = placement
        self._static_fields: Headers = tuple(header.field for header in self._static)
        self._replaced = frozenset(name for name, _ in (*self._templates, *self._static_fields)) - NEVER_UP
        self._token: Secret | None = None
        self._fields = self._static_fields
        self._parameter = ""
        self._reread_s = -math.inf if any(header.changes for header in self._static) else math.inf

    def __repr__(self) -> str:
        return "Carrier(hidden)"

    def loaded(
        self,
        request: OutboundRequest,
        token: Secret | None,
        now: float,
        anew: Callable[[], OutboundRequest | None] | None = None,
    ) -> OutboundRequest:
        """`request` with `token`, where there is one, and the static headers, in place of its own of these names;
        `anew` as in Request.

        Raises ValueError, without the token in it, for one that no field can hold.
        """
        if now >= self._reread_s:
            self._reload(now)
        if token is not self._token:
            self._prepare(token)
        if not self._fields and not self._parameter:
            return request
        kept = request.headers
        if self._replaced:
            kept = tuple(field for field in kept if field[0] not in self._replaced)
        url = f"{request.url}{'&' if '?' in request.url else '?'}{self._parameter}" if self._parameter else request.url
        fields = (*kept, *self._fields)
        return OutboundRequest(
            request.method, url, fields, request.body, request.timeouts, request.new_connection, request.upload, anew
        )

    def _prepare(self, token: Secret | None) -> None:
        fields, parameter = self._static_fields, ""
        if token is not None:
            text = sendable(token)
            fields = (
                *fields,
                *((name, template.replace(TOKEN_PLACEHOLDER, text).encode()) for name, template in self._templates),
            )
            parameter = f"{self._placement.query}={quote(text, safe='')}" if self._placement.query is not None else ""
        self._fields, self._parameter, self._token = fields, parameter, token

    def _reload(self, now: float) -> None:
        for header in self._static:
            header.reload()
        fields = tuple(header.field for header in self._static)
        self._reread_s = now + REREAD_S
        if fields != self._static_fields:
            self._static_fields = fields
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
