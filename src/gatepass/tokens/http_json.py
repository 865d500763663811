"""A login of somebody's own: one HTTP request whose reply holds a token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from gatepass.call import Request, Secret
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.references import Reference
from gatepass.runtime import Clock
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer import HEADERS, Issuer, bounds, host_of
from gatepass.tokens.life import Token
from gatepass.tokens.reading import Terms
from gatepass.tokens.secret import revealed, secret_fields, secret_leaves
from gatepass.transport.seam import Transport


class HttpJsonSource:
    def __init__(self, name: str, settings: HttpJsonCredential, transport: Transport, clock: Clock) -> None:
        terms = Terms(
            host_of(settings.url), settings.default_ttl_s, settings.max_ttl_s, settings.reply, plain_text=True
        )
        self._settings = settings
        self._issuer = Issuer(name, settings, terms, transport, clock)
        fields = (settings.headers, settings.query, settings.form or {})
        self._secrets = (
            *(secret for each in fields for secret in secret_fields(each)),
            *secret_leaves(settings.json_body),
        )

    def __repr__(self) -> str:
        return f"HttpJsonSource({self._issuer.name})"

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        return await self._issuer.mint(self._request(), self._secrets)

    def _request(self) -> Request:
        settings = self._settings
        kind, body = self._body()
        headers = dict(HEADERS)
        if kind is not None:
            headers[b"content-type"] = kind
        headers.update(_header(name, value) for name, value in settings.headers.items())
        return Request(settings.method, self._url(), tuple(headers.items()), body, bounds(settings))

    def _url(self) -> str:
        url, query = self._settings.url, _values(self._settings.query, "query")
        if not query:
            return url
        return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"

    def _body(self) -> tuple[bytes | None, bytes]:
        settings = self._settings
        if settings.form is not None:
            return b"application/x-www-form-urlencoded", urlencode(_values(settings.form, "form")).encode()
        if settings.json_body is None:
            return None, b""
        document = _resolved(settings.json_body)
        return b"application/json", json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _values(fields: Mapping[str, Secret], setting: str) -> dict[str, str]:
    return {name: revealed(value, f"{setting}.{name}") for name, value in fields.items()}


def _header(name: str, value: Secret) -> tuple[bytes, bytes]:
    text = revealed(value, f"headers.{name}")
    if any(c in text for c in "\r\n\0"):
        raise FetchFailure(f"headers.{name} holds a line break, which no header may", definite=True)
    return name.lower().encode(), text.encode()


def _resolved(document: Any) -> Any:
    """`document` with its references read again: a rotated file arrives with the next fetch."""
    if isinstance(document, Reference):
        return revealed(Secret(document.read), document.template)
    if isinstance(document, Mapping):
        return {key: _resolved(child) for key, child in document.items()}
    if isinstance(document, list | tuple):
        return [_resolved(child) for child in document]
    return document
