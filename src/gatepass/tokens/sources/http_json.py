"""Log in to a custom token endpoint: one HTTP request whose reply contains a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlencode

from gatepass.clock import Clock
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.document import with_leaves
from gatepass.config.references import Reference
from gatepass.http_client.fault_text import host_of
from gatepass.tokens.failure import FailureKind, FetchFailure
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import all_revealed, basic_credentials, revealed, secret_fields, secret_leaves
from gatepass.tokens.token_endpoint import FORM, HEADERS, Connect, TokenEndpointClient
from gatepass.tokens.token_reply import TokenReplyFormat
from gatepass.types import OutboundRequest, Secret

JSON = b"application/json"


class HttpJsonSource:
    """Sends one login request for each fetch."""

    def __init__(self, name: str, settings: HttpJsonCredential, connect: Connect, clock: Clock) -> None:
        reply_format = TokenReplyFormat(
            host_of(settings.url),
            settings.default_ttl_s,
            settings.reply,
            plain_text=True,
            header=settings.reply.header,
            credential=name,
            url_setting=f"credentials.{name}.url",
            is_login=True,
        )
        self._settings = settings
        self._issuer = TokenEndpointClient(name, settings, reply_format, connect, clock)
        self._secrets = tuple(_secrets(settings))

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        return await self._issuer.fetch_token(self._request(), self._secrets)

    def _request(self) -> OutboundRequest:
        """Return the login; raise FetchFailure for an unreadable secret or an invalid header."""
        settings, headers = self._settings, dict(HEADERS)
        body = b""
        if settings.form is not None:
            body = urlencode(all_revealed(settings.form, "form")).encode()
            headers.update([FORM])
        elif settings.json_body is not None:
            # References are read again, so that a rotated file applies to the next fetch.
            document = with_leaves(
                settings.json_body,
                lambda leaf: revealed(Secret(leaf.read), leaf.template) if isinstance(leaf, Reference) else leaf,
            )
            body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
            headers[b"content-type"] = JSON
        # The configured headers override those of HEADERS.
        for name, text in all_revealed(settings.headers, "headers").items():
            if any(c in text for c in "\r\n\0"):
                why = f"headers.{name} contains a line break, which a header must not contain"
                raise FetchFailure(why, FailureKind.REFUSED)
            headers[name.lower().encode()] = text.encode()
        if settings.basic is not None:
            password = revealed(settings.basic.password, "basic.password")
            # as they stand: SAP rejects form-encoded ids, which contain `!` and `|`
            headers[b"authorization"] = f"Basic {basic_credentials(settings.basic.username, password)}".encode()
        # The configured URL may already have a query.
        query = urlencode(all_revealed(settings.query, "query"))
        url = f"{settings.url}{'&' if '?' in settings.url else '?'}{query}" if query else settings.url
        return OutboundRequest(settings.method, url, tuple(headers.items()), body)


def _secrets(settings: HttpJsonCredential) -> Iterator[Secret]:
    for fields in (settings.headers, settings.query, settings.form or {}):
        yield from secret_fields(fields)
    yield from secret_leaves(settings.json_body)
    if (basic := settings.basic) is not None:
        yield from (basic.password, basic.password.derived(partial(basic_credentials, basic.username)))
