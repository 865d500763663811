"""Log in to a custom token endpoint: one HTTP request whose reply contains a token."""

from __future__ import annotations

import hmac
import json
import secrets as randomness
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode, urlsplit

from gatepass.clock import Clock
from gatepass.config.credential.http_json import (
    PER_REQUEST,
    SIGNATURE,
    Basic,
    HttpJsonCredential,
    Sign,
    with_values,
    with_values_in,
)
from gatepass.config.document import with_leaves
from gatepass.config.references import Reference
from gatepass.http_client.fault_text import host_of
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import revealed, secret_fields, secret_leaves, secret_values
from gatepass.tokens.token_endpoint import HEADERS, Connect, TokenEndpointClient
from gatepass.tokens.token_reply import TokenReplyFormat
from gatepass.types import OutboundRequest, Secret

FORM = b"application/x-www-form-urlencoded"
JSON = b"application/json"
Values = Mapping[str, str]
NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class LoginRequestTemplate:
    """A login request with placeholders. `document` is the JSON body. Without `document` and `form` it is empty."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    document: Any = field(default=None, repr=False)

    def body(self) -> bytes:
        if self.form is not None:
            return urlencode(self.form).encode()
        if self.document is None:
            return b""
        return json.dumps(self.document, ensure_ascii=False, separators=(",", ":")).encode()

    def filled(self, values: Mapping[str, str]) -> LoginRequestTemplate:
        return replace(
            self,
            headers=_filled(self.headers, values),
            query=_filled(self.query, values),
            form=None if self.form is None else _filled(self.form, values),
            document=with_values_in(self.document, values),
        )

    def request(self) -> OutboundRequest:
        """Return the request to send; raise FetchFailure for an invalid header."""
        headers = dict(HEADERS)
        if self.form is not None or self.document is not None:
            headers[b"content-type"] = JSON if self.form is None else FORM
        for name, text in self.headers.items():
            if any(c in text for c in "\r\n\0"):
                raise FetchFailure(
                    f"headers.{name} contains a line break, which a header must not contain", definite=True
                )
            # The configured headers override those of HEADERS.
            headers[name.lower().encode()] = text.encode()
        # The configured URL may already have a query.
        query = f"{'&' if '?' in self.url else '?'}{urlencode(self.query)}" if self.query else ""
        return OutboundRequest(self.method, self.url + query, tuple(headers.items()), self.body())


def _filled(fields: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: with_values(text, values) for name, text in fields.items()}


def request_values(wall_s: float, nonce: str) -> Values:
    """Return the values of one request. `wall_s` is in epoch seconds."""
    second = int(wall_s)
    return {
        "timestamp": str(second),
        "timestamp_ms": str(int(wall_s * 1000)),
        "time": datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "nonce": nonce,
    }


def sign_request(template: LoginRequestTemplate, sign: Sign, secret: str, values: Values) -> LoginRequestTemplate:
    """Return `template` with its placeholders replaced: first the values, then the signature over the result."""
    template = template.filled(values)  # first, because the signature covers the values
    body = template.body()
    parts = {
        "method": template.method,
        # An empty path is sent as `/` (RFC 9112 3.2.1).
        "path": urlsplit(template.url).path or "/",
        "body": body.decode(),
        "body_sha256": sha256(body).hexdigest(),
    }
    text = with_values(sign.text, {**_named_values(template), **parts, **values})
    return template.filled({SIGNATURE: signature(sign, secret, text)})


def signature(sign: Sign, secret: str, text: str) -> str:
    digest = hmac.digest(secret.encode(), text.encode(), sign.algorithm)
    return digest.hex() if sign.encoding == "hex" else b64encode(digest).decode()


def _named_values(template: LoginRequestTemplate) -> dict[str, str]:
    """Return the values that the signed text may use by name.

    The query has precedence, then the form, the JSON body and the headers.
    """
    document = template.document if isinstance(template.document, Mapping) else {}
    # Without arrays and objects, whose text differs between issuers.
    members = {str(name): value for name, value in document.items() if not isinstance(value, list | dict)}
    # As in JSON: `true`, not `True`.
    words = {None: "", True: "true", False: "false"}
    plain = {
        name: words[value] if value is None or isinstance(value, bool) else str(value)
        for name, value in members.items()
    }
    return {**template.headers, **plain, **(template.form or {}), **template.query}


def fresh_nonce() -> str:
    return randomness.token_hex(NONCE_BYTES)


class HttpJsonSource:
    """Sends one login request for each fetch. `nonce` makes each signed request unique."""

    def __init__(
        self,
        name: str,
        settings: HttpJsonCredential,
        connect: Connect,
        clock: Clock,
        nonce: Callable[[], str] = fresh_nonce,
    ) -> None:
        reply_format = TokenReplyFormat(
            host_of(settings.url),
            settings.default_ttl_s,
            settings.max_ttl_s,
            settings.reply,
            plain_text=True,
            header=settings.reply.header,
            credential=name,
            url_setting="url",
            is_login=True,
        )
        self._settings = settings
        self._clock = clock
        self._nonce = nonce
        self._issuer = TokenEndpointClient(name, settings, reply_format, connect, clock)
        found, blank = [*_secrets(settings)], dict.fromkeys((*PER_REQUEST, SIGNATURE), "")
        # A value that is only a placeholder, such as `{nonce}`, is not a secret.
        self._secrets = tuple(
            secret
            for secret, text in zip(found, secret_values(found), strict=True)
            if settings.sign is None or text is None or with_values(text, blank)
        )

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        template, sign = self._template(), self._settings.sign
        if sign is not None:
            secret = revealed(sign.secret, "sign.secret")
            template = sign_request(template, sign, secret, request_values(self._clock.wall(), self._nonce()))
        return await self._issuer.fetch_token(template.request(), self._secrets)

    def _template(self) -> LoginRequestTemplate:
        settings = self._settings
        headers = _values(settings.headers, "headers")
        if settings.basic is not None:
            password = revealed(settings.basic.password, "basic.password")
            headers["authorization"] = f"Basic {_basic_pair(settings.basic, password)}"
        return LoginRequestTemplate(
            settings.method,
            settings.url,
            headers,
            _values(settings.query, "query"),
            None if settings.form is None else _values(settings.form, "form"),
            # References are read again, so that a rotated file applies to the next fetch.
            with_leaves(
                settings.json_body,
                lambda leaf: revealed(Secret(leaf.read), leaf.template) if isinstance(leaf, Reference) else leaf,
            ),
        )


def _values(fields: Mapping[str, Secret], setting: str) -> dict[str, str]:
    return {name: revealed(value, f"{setting}.{name}") for name, value in fields.items()}


def _basic_pair(basic: Basic, password: str) -> str:
    """Return the Basic credentials of RFC 7617 2. SAP rejects form-encoded ids, which contain `!` and `|`."""
    return b64encode(f"{basic.username}:{password}".encode()).decode()


def _secrets(settings: HttpJsonCredential) -> Iterator[Secret]:
    for fields in (settings.headers, settings.query, settings.form or {}):
        yield from secret_fields(fields)
    yield from secret_leaves(settings.json_body)
    if (basic := settings.basic) is not None:
        yield from (basic.password, basic.password.derived(partial(_basic_pair, basic)))
    if settings.sign is not None:
        yield settings.sign.secret
