"""Attach a token and an upstream's static headers to its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote, unquote

from gatepass.config.network import BEARER_PLACEMENT, TOKEN_PLACEHOLDER, TokenPlacement, header_value_error
from gatepass.config.references import UnresolvedReference
from gatepass.config.upstream import MASKED_CHARS, is_secret_parameter
from gatepass.observability.redaction import Redactor
from gatepass.tokens.token_reply import fits_a_header
from gatepass.types import NEVER_UP, Headers, OutboundRequest, Secret, settings_of

NOTHING: Mapping[str, Secret] = {}


def _static_text(value: Secret, setting: str, check: Callable[[str], str | None] = lambda _: None) -> str:
    try:
        text = value.reveal()
        fault = check(text) if text else "is empty"
    except ValueError as error:
        fault = str(error)
    if fault:
        raise UnresolvedReference(f"{setting}: {fault}")
    return text


class CredentialInjector:
    """Adds a token and the upstream's static headers and query parameters to its requests.

    The fields of a token are encoded once, not once a request (25 µs for a long JWT). `headers` and `query` are those
    of `upstreams.UPSTREAM`, which are read once. `redactor` masks their values. Raises UnresolvedReference, with the
    name of the setting, if one cannot be read.
    """

    def __init__(
        self,
        placement: TokenPlacement = BEARER_PLACEMENT,
        headers: Mapping[str, Secret] = NOTHING,
        redactor: Redactor | None = None,
        upstream: str = "NAME",
        query: Mapping[str, Secret] = NOTHING,
    ) -> None:
        masking, block = redactor or Redactor(), settings_of(upstream)
        self._templates = tuple((name.lower().encode(), template) for name, template in placement.templates.items())
        fields, parameters = list[tuple[bytes, bytes]](), list[str]()
        for name, value in headers.items():
            text = _static_text(value, setting := f"{block}.headers.{name}", header_value_error)
            if len(text) >= MASKED_CHARS:  # masking `default` would hide ordinary text
                masking.learn(text, setting)
            fields.append((name.lower().encode(), text.encode()))
        for name, value in query.items():
            text = _static_text(value, setting := f"{block}.query.{name}")
            if is_secret_parameter(name, value):
                masking.learn(text, setting)
            parameters.append("=".join(quote(one, safe="", errors="replace") for one in (name, text)))
        self.static_fields: Headers = tuple(fields)
        self.static_parameters = "&".join(parameters)
        self._own_parameters = frozenset(query)
        self._placement = placement
        self._replaced = frozenset(name for name, _ in (*self._templates, *self.static_fields)) - NEVER_UP
        self._token: Secret | None = None
        self._fields = self.static_fields
        self._parameters = self.static_parameters

    def authorize(
        self,
        request: OutboundRequest,
        token: Secret | None,
        anew: Callable[[], OutboundRequest | None] | None = None,
    ) -> OutboundRequest:
        """Return `request` with `token`, if any, and the static headers and parameters, which replace its own ones.

        `anew` is passed to OutboundRequest. Raises ValueError, without the token in it, if no header field can hold
        the token.
        """
        if token is not self._token:  # compared by identity: it is cheaper than a comparison of texts
            self._prepare(token)
        if not self._fields and not self._parameters:
            return request
        kept = request.headers
        if self._replaced:
            kept = tuple(field for field in kept if field[0] not in self._replaced)
        url = request.url
        if self._parameters:
            if self._own_parameters and "?" in url:
                path, _, query = url.partition("?")
                others = (one for one in query.split("&") if unquote(one.partition("=")[0]) not in self._own_parameters)
                url = f"{path}?{query}" if (query := "&".join(others)) else path
            url = f"{url}{'&' if '?' in url else '?'}{self._parameters}"
        fields = (*kept, *self._fields)
        return OutboundRequest(
            request.method, url, fields, request.body, request.timeouts, request.new_connection, anew
        )

    def _prepare(self, token: Secret | None) -> None:
        fields, parameters = self.static_fields, self.static_parameters
        if token is not None:
            text = token.reveal()
            # The last check that no line break in a token adds a header field. A space would end the token.
            if not fits_a_header(text):
                raise ValueError("the token is empty or contains a space, a line break or a non-ASCII character")
            fields = (
                *fields,
                *((name, template.replace(TOKEN_PLACEHOLDER, text).encode()) for name, template in self._templates),
            )
            if self._placement.query is not None:
                parameters += f"{'&' if parameters else ''}{self._placement.query}={quote(text, safe='')}"
        self._fields, self._parameters, self._token = fields, parameters, token
