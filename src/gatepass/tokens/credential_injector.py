"""Attach a token and an upstream's static headers to its requests."""

from __future__ import annotations

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
NOTHING: Mapping[str, Secret] = MappingProxyType({})


def _static_field(name: str, value: Secret, setting: str, redactor: Redactor) -> tuple[bytes, bytes]:
    try:
        text = value.reveal()
        fault = header_value_error(text) if text else "is empty"
    except ValueError as error:
        fault = str(error)
    if fault:
        raise UnresolvedReference(f"{setting}: {fault}")
    if len(text) >= MASKED_CHARS:  # masking `default` would hide ordinary text
        redactor.learn(text, setting)
    return name.lower().encode(), text.encode()


class CredentialInjector:
    """Adds a token and the upstream's static headers to its requests.

    The fields of a token are encoded once, not once a request (25 µs for a long JWT). `headers` are those of
    `upstreams.UPSTREAM`, which are read once. `redactor` masks their values. Raises UnresolvedReference, with the name
    of the setting, if one cannot be read.
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
        self.static_fields: Headers = tuple(
            _static_field(name, value, f"{settings_of(upstream)}.headers.{name}", masking)
            for name, value in headers.items()
        )
        self._placement = placement
        self._replaced = frozenset(name for name, _ in (*self._templates, *self.static_fields)) - NEVER_UP
        self._token: Secret | None = None
        self._fields = self.static_fields
        self._parameter = ""

    def authorize(
        self,
        request: OutboundRequest,
        token: Secret | None,
        anew: Callable[[], OutboundRequest | None] | None = None,
    ) -> OutboundRequest:
        """Return `request` with `token`, if any, and the static headers, which replace its own fields of these names.

        `anew` is passed to OutboundRequest. Raises ValueError, without the token in it, if no header field can hold
        the token.
        """
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
        fields, parameter = self.static_fields, ""
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
