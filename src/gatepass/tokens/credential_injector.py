"""Attach a token and an upstream's static headers to its requests."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import quote

from gatepass.config.network import BEARER_PLACEMENT, TOKEN_PLACEHOLDER, TokenPlacement, header_value_error
from gatepass.config.references import UnresolvedReference
from gatepass.observability.redaction import Redactor
from gatepass.tokens.token_reply import fits_a_header
from gatepass.types import NEVER_UP, Headers, OutboundRequest, Secret, settings_of

MASKED_CHARS = 16
"""A static header of this length is masked as a secret. A shorter one is a name, such as `default`."""
LOG = logging.getLogger("gatepass.upstream")
REREAD_S = 2.0
"""Maximum age of a static header from a file. It avoids a stat call for each request."""
NOTHING: Mapping[str, Secret] = MappingProxyType({})


class StaticHeader:
    """One configured header of an upstream. `field` holds its last good value.

    While a file is replaced it is absent, empty or incomplete for a moment, and no request must fail because of that.
    Each change between readable and unreadable writes one log line, without the value. Raises UnresolvedReference, with
    the name of `setting`, if the value cannot be read at the start.
    """

    def __init__(self, name: bytes, value: Secret, setting: str, redactor: Redactor) -> None:
        self._value = value
        self._setting = setting
        self._redactor = redactor
        self._error: str | None = None
        try:
            self.field = (name, self._read())
        except ValueError as error:
            raise UnresolvedReference(f"{setting}: {error}") from None

    @property
    def changes(self) -> bool:
        return self._value.changes

    def reload(self) -> None:
        error_text = None
        try:
            self.field = (self.field[0], self._read())
        except ValueError as error:  # keep the last good value
            error_text = str(error)
        if error_text == self._error:
            return
        self._error = error_text
        fields: dict[str, object] = {"setting": self._setting}
        if error_text is None:
            LOG.info("header_reloaded", extra={"fields": fields})
        else:
            LOG.warning("header_unreadable", extra={"fields": fields | {"reason": error_text}})

    def _read(self) -> bytes:
        text = self._value.reveal()
        if fault := header_value_error(text) if text else "is empty":
            raise ValueError(fault)
        if len(text) >= MASKED_CHARS:  # masking `default` would hide ordinary text
            self._redactor.learn(text, self._setting)
        return text.encode()


class CredentialInjector:
    """Adds a token and the upstream's static headers to its requests.

    The fields of a token are encoded once, not once a request (25 µs for a long JWT). `headers` are those of
    `upstreams.UPSTREAM`. `redactor` masks their values. Headers from files are read again after REREAD_S. Raises
    UnresolvedReference if one cannot be read at the start.
    """

    def __init__(
        self,
        placement: TokenPlacement = BEARER_PLACEMENT,
        headers: Mapping[str, Secret] = NOTHING,
        redactor: Redactor | None = None,
        upstream: str = "NAME",
    ) -> None:
        masking = redactor or Redactor()
        self._templates = tuple((name.lower().encode(), template) for name, template in placement.templates.items())
        self._static = tuple(
            StaticHeader(name.lower().encode(), value, f"{settings_of(upstream)}.headers.{name}", masking)
            for name, value in headers.items()
        )
        self._placement = placement
        self._static_fields: Headers = tuple(header.field for header in self._static)
        self._replaced = frozenset(name for name, _ in (*self._templates, *self._static_fields)) - NEVER_UP
        self._token: Secret | None = None
        self._fields = self._static_fields
        self._parameter = ""
        self._reread_s = -math.inf if any(header.changes for header in self._static) else math.inf

    def authorize(
        self,
        request: OutboundRequest,
        token: Secret | None,
        now: float,
        anew: Callable[[], OutboundRequest | None] | None = None,
    ) -> OutboundRequest:
        """Return `request` with `token`, if any, and the static headers, which replace its own fields of these names.

        `anew` is passed to OutboundRequest. Raises ValueError, without the token in it, if no header field can hold
        the token.
        """
        if now >= self._reread_s:
            for header in self._static:
                header.reload()
            fields = tuple(header.field for header in self._static)
            self._reread_s = now + REREAD_S
            # Most files do not change, and encoding the token again costs 25 µs.
            if fields != self._static_fields:
                self._static_fields = fields
                self._prepare(self._token)
        if token is not self._token:  # compared by identity: it is cheaper than a comparison of texts
            self._prepare(token)
        if not self._fields and not self._parameter:
            return request
        kept = request.headers
        if self._replaced:
            kept = tuple(field for field in kept if field[0] not in self._replaced)
        url = f"{request.url}{'&' if '?' in request.url else '?'}{self._parameter}" if self._parameter else request.url
        fields = (*kept, *self._fields)
        return OutboundRequest(
            request.method, url, fields, request.body, request.timeouts, request.new_connection, anew
        )

    def _prepare(self, token: Secret | None) -> None:
        fields, parameter = self._static_fields, ""
        if token is not None:
            text = token.reveal()
            # The last check that no line break in a token adds a header field. A space would end the token.
            if not fits_a_header(text):
                raise ValueError("the token is empty or contains a space, a line break or a non-ASCII character")
            fields = (
                *fields,
                *((name, template.replace(TOKEN_PLACEHOLDER, text).encode()) for name, template in self._templates),
            )
            parameter = f"{self._placement.query}={quote(text, safe='')}" if self._placement.query is not None else ""
        self._fields, self._parameter, self._token = fields, parameter, token
