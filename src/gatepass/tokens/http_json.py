"""A login of somebody's own: one HTTP request whose reply holds a token."""

from __future__ import annotations

import secrets as randomness
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import httpx2

from gatepass.call import Request, Secret
from gatepass.config.credential.http_json import Basic, HttpJsonCredential
from gatepass.config.credential.sign import MOMENTS, SIGNATURE, with_values
from gatepass.config.references import Reference
from gatepass.runtime import Clock
from gatepass.tokens.draft import Draft
from gatepass.tokens.issuer import Issuer, host_of
from gatepass.tokens.life import Token
from gatepass.tokens.reading import Terms
from gatepass.tokens.secret import revealed, secret_fields, secret_leaves
from gatepass.tokens.signing import moments, signed

NONCE_BYTES = 16


def fresh_nonce() -> str:
    return randomness.token_hex(NONCE_BYTES)


class HttpJsonSource:
    """`nonce` gives each signed request a text of its own."""

    def __init__(
        self,
        name: str,
        settings: HttpJsonCredential,
        client: httpx2.AsyncClient,
        clock: Clock,
        nonce: Callable[[], str] = fresh_nonce,
    ) -> None:
        terms = Terms(
            host_of(settings.url),
            settings.default_ttl_s,
            settings.max_ttl_s,
            settings.reply,
            plain_text=True,
            header=settings.reply.header,
            credential=name,
            address="url",
            by_login=True,
        )
        self._settings = settings
        self._clock = clock
        self._nonce = nonce
        self._issuer = Issuer(name, settings, terms, client, clock)
        self._secrets = tuple(secret for secret in _secrets(settings) if settings.sign is None or not _is_place(secret))

    def __repr__(self) -> str:
        return f"HttpJsonSource({self._issuer.name})"

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        return await self._issuer.mint(self._request(), self._secrets)

    def _request(self) -> Request:
        draft, sign = self._draft(), self._settings.sign
        if sign is not None:
            secret = revealed(sign.secret, "sign.secret")
            draft = signed(draft, sign, secret, moments(self._clock.wall(), self._nonce()))
        return draft.request()

    def _draft(self) -> Draft:
        settings = self._settings
        headers = _values(settings.headers, "headers")
        if settings.basic is not None:
            password = revealed(settings.basic.password, "basic.password")
            headers["authorization"] = f"Basic {_pair(settings.basic, password)}"
        return Draft(
            settings.method,
            settings.url,
            headers,
            _values(settings.query, "query"),
            None if settings.form is None else _values(settings.form, "form"),
            _resolved(settings.json_body),
        )


def _values(fields: Mapping[str, Secret], setting: str) -> dict[str, str]:
    return {name: revealed(value, f"{setting}.{name}") for name, value in fields.items()}


def _resolved(document: Any) -> Any:
    """`document` with its references read again: a rotated file arrives with the next fetch."""
    if isinstance(document, Reference):
        return revealed(Secret(document.read), document.template)
    if isinstance(document, Mapping):
        return {key: _resolved(child) for key, child in document.items()}
    if isinstance(document, list | tuple):
        return [_resolved(child) for child in document]
    return document


def _pair(basic: Basic, password: str) -> str:
    """RFC 7617 2, as it stands: SAP's ids hold `!` and `|`, and are not taken form-encoded."""
    return b64encode(f"{basic.username}:{password}".encode()).decode()


def _secrets(settings: HttpJsonCredential) -> Iterator[Secret]:
    """What is to be masked."""
    for fields in (settings.headers, settings.query, settings.form or {}):
        yield from secret_fields(fields)
    yield from secret_leaves(settings.json_body)
    if (basic := settings.basic) is not None:
        yield from (basic.password, basic.password.derived(partial(_pair, basic)))
    if settings.sign is not None:
        yield settings.sign.secret


def _is_place(secret: Secret) -> bool:
    """Whether it is a `{nonce}` or the like, for which something else goes out each time: no secret."""
    try:
        text = secret.reveal()
    except ValueError:
        return False
    return not with_values(text, dict.fromkeys((*MOMENTS, SIGNATURE), ""))
