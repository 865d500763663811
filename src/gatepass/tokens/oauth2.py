"""OAuth 2.0 client credentials (RFC 6749 4.4)."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import quote_plus, urlencode

from gatepass.call import Headers, Request, Secret
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.runtime import Clock
from gatepass.tokens.issuer import HEADERS, Issuer, bounds, host_of
from gatepass.tokens.life import Token
from gatepass.tokens.reading import Terms
from gatepass.tokens.secret import revealed, secret_fields
from gatepass.transport.seam import Transport

FORM = (b"content-type", b"application/x-www-form-urlencoded")


class Oauth2Source:
    def __init__(self, name: str, settings: Oauth2Credential, transport: Transport, clock: Clock) -> None:
        terms = Terms(host_of(settings.token_url), settings.default_ttl_s, settings.max_ttl_s)
        self._settings = settings
        self._issuer = Issuer(name, settings, terms, transport, clock)
        pair = Secret(lambda: _basic(settings.client_id, settings.client_secret.reveal()))
        self._secrets = (settings.client_secret, pair, *secret_fields(settings.extra))

    def __repr__(self) -> str:
        return f"Oauth2Source({self._issuer.name})"

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        return await self._issuer.mint(self._request(), self._secrets)

    def _request(self) -> Request:
        settings = self._settings
        secret = revealed(settings.client_secret, "client_secret")
        headers: Headers = (*HEADERS, FORM)
        fields = {"grant_type": "client_credentials"}
        if settings.client_auth == "basic":
            headers = (*headers, (b"authorization", b"Basic " + _basic(settings.client_id, secret).encode()))
        else:
            fields |= {"client_id": settings.client_id, "client_secret": secret}
        wishes = {"scope": settings.scope, "audience": settings.audience, "resource": settings.resource}
        fields |= {name: value for name, value in wishes.items() if value is not None}
        fields |= {name: revealed(value, f"extra.{name}") for name, value in settings.extra.items()}
        return Request("POST", settings.token_url, headers, urlencode(fields).encode(), bounds(settings))


def _basic(client_id: str, secret: str) -> str:
    """RFC 6749 2.3.1: both are form-encoded before they are joined."""
    return b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()
