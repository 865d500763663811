"""Fetch tokens of `type: oauth2`: send a grant, with the client's proof, to the token endpoint.

`Discovery` finds the token endpoint in the issuer's document (OpenID Connect Discovery 1.0, RFC 8414).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2

from gatepass.clock import Clock
from gatepass.config.block import checked_url
from gatepass.config.credential.oauth2 import SPELLINGS, Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import REFUSED, Mask, error_response_failure, one_line
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import secret_fields
from gatepass.tokens.sources.client_auth import (
    INVALID_GRANT_CODES,
    ClientAuthenticator,
    Fields,
    code_of,
    extra_fields,
    login_fields,
    new_login_advice,
    with_advice,
)
from gatepass.tokens.sources.file import WatchedFile
from gatepass.tokens.sources.refresh_token import (
    FileRefreshTokenStore,
    MemoryRefreshTokenStore,
    RefreshTokenRotation,
    RefreshTokenStore,
    is_bare,
)
from gatepass.tokens.token_endpoint import HEADERS, TimedTokenResponse, TokenEndpointClient, display_host
from gatepass.tokens.token_reply import TokenReplyFormat
from gatepass.types import Headers, OutboundRequest, Secret

TTL_S = 3600.0
"""How long a discovery document is used without being read again."""
REREAD_S = 10.0
"""Between two reads while fetches fail. The endpoint may have moved, and an overloaded issuer must not get more
requests."""
_METHOD = re.compile(r"[a-z_]{1,40}\Z")
_METHODS_SHOWN = 8
FORM = (b"content-type", b"application/x-www-form-urlencoded")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A token endpoint. `methods` are the client authentications that its issuer supports, in the issuer's spelling."""

    token_url: str
    methods: tuple[str, ...] = ()


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Return the possible URLs of the issuer's document. OpenID Connect appends its path, RFC 8414 3 prepends it."""
    bare = issuer.rstrip("/")  # OpenID Connect Discovery 4.1 removes it too
    parts = urlsplit(bare)
    return (
        f"{bare}/.well-known/openid-configuration",
        f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}",
    )


def endpoint_in(document: Any, issuer: str, mask: Mask, *, mtls: bool) -> Endpoint:
    """Return the token endpoint in `document`; raise FetchFailure if it is not the issuer's own document.

    Another issuer's name in it means that the document is not authentic (RFC 8414 3.3). A secret must not be sent to
    the endpoint that it names.
    """
    if not isinstance(document, Mapping):
        raise FetchFailure(f"the discovery document of {issuer} is not a JSON object", quick=False)
    # Compared exactly: RFC 8414 3.3 allows no normalization, not even of a trailing slash.
    if document.get("issuer") != issuer:
        named = one_line(str(document.get("issuer")), mask)
        raise FetchFailure(
            f"the discovery document of {issuer} names another issuer, {named}: "
            "set issuer exactly as the document does",
            quick=False,
        )
    url = document.get("token_endpoint")
    aliases = document.get("mtls_endpoint_aliases")  # RFC 8705 5: endpoints that request a client certificate
    if mtls and isinstance(aliases, Mapping) and aliases.get("token_endpoint") is not None:
        url = aliases["token_endpoint"]
    supported = document.get("token_endpoint_auth_methods_supported")
    names = supported if isinstance(supported, list) else []
    methods = tuple(name for name in names if isinstance(name, str) and _METHOD.match(name))[:_METHODS_SHOWN]
    return Endpoint(_checked_url(url, issuer, mtls=mtls), methods)


def _checked_url(url: Any, issuer: str, *, mtls: bool) -> str:
    wrong = f"the discovery document of {issuer} names a token_endpoint that"
    if not isinstance(url, str):
        raise FetchFailure(f"the discovery document of {issuer} contains no token_endpoint", quick=False)
    try:
        checked_url(url)
    except ValueError as error:
        raise FetchFailure(f"{wrong} {error}", quick=False) from None
    # A document fetched over TLS must not downgrade the request that carries the secret.
    if urlsplit(url).scheme == "http" and (mtls or urlsplit(issuer).scheme == "https"):
        raise FetchFailure(f"{wrong} is plain HTTP: no secret is sent there", quick=False)
    return url


class Discovery:
    """Finds the token endpoint of one issuer. The last valid document is used while the issuer is unavailable."""

    def __init__(self, settings: Oauth2Credential, issuer: TokenEndpointClient, clock: Clock) -> None:
        self._settings = settings
        self._name = settings.issuer or ""
        self._issuer = issuer
        self._clock = clock
        self._known: Endpoint | None = None
        self._read_s = self._good_until_s = -math.inf

    async def endpoint(self, by_s: float) -> Endpoint:
        """Return the token endpoint; raise FetchFailure if it is unknown and cannot be read until `by_s`."""
        now = self._clock.now()
        known = self._known
        if known is not None and now < self._good_until_s:
            return known
        self._read_s = now
        try:
            # With a known endpoint, half of the time remains for the token itself.
            self._known = await self._read(by_s if known is None else now + (by_s - now) / 2)
        except FetchFailure:
            if known is None:
                raise
            self._good_until_s = now + REREAD_S
            return known
        self._good_until_s = now + TTL_S
        return self._known

    def expire_soon(self) -> None:
        """Read the document again REREAD_S after the last read, because the endpoint may have moved."""
        self._good_until_s = min(self._good_until_s, self._read_s + REREAD_S)

    async def _read(self, by_s: float) -> Endpoint:
        responses: list[TimedTokenResponse] = []
        for url in metadata_urls(self._name):
            timed_response = await self._issuer.send(OutboundRequest("GET", url, HEADERS), (), by_s)
            document = timed_response.response.document if timed_response.response.is_success else None
            if document is not None:
                is_mtls = self._settings.client_auth == "mtls"
                return endpoint_in(document, self._name, timed_response.mask, mtls=is_mtls)
            responses.append(timed_response)
        raise self._undocumented(responses[0])

    def _undocumented(self, timed_response: TimedTokenResponse) -> FetchFailure:
        if timed_response.response.is_success:
            return FetchFailure(f"the discovery document of {self._name} is not JSON", quick=False)
        failure = error_response_failure(
            timed_response.response, timed_response.wall_s, self._issuer.reply_format.issuer, timed_response.mask
        )
        words = failure.reason.removeprefix(REFUSED)
        return FetchFailure(
            f"no discovery document of {self._name}: {words}",
            quick=failure.retry_quickly,
            retry_after_s=failure.retry_after_s,
        )


class Oauth2Source:
    """Fetch tokens with one grant. Refresh tokens go to `refresh_token_file`, `refresh_token_store` or memory."""

    def __init__(
        self,
        name: str,
        settings: Oauth2Credential,
        client: httpx2.AsyncClient,
        clock: Clock,
        refresh_token_store: RefreshTokenStore | None = None,
    ) -> None:
        url_setting = "token_url" if settings.issuer is None else None
        reply_format = TokenReplyFormat(
            display_host(settings.endpoint),
            settings.default_ttl_s,
            settings.max_ttl_s,
            credential=name,
            url_setting=url_setting,
            audience=settings.audience,
        )
        self._settings = settings
        self._clock = clock
        self._issuer = TokenEndpointClient(name, settings, reply_format, client, clock)
        self._client = ClientAuthenticator(settings)
        self._discovery = Discovery(settings, self._issuer, clock) if settings.issuer is not None else None
        file = settings.refresh_token_file
        kept = (
            FileRefreshTokenStore(file, clock)
            if file is not None
            else refresh_token_store or MemoryRefreshTokenStore(clock)
        )
        self._rotation = RefreshTokenRotation(name, settings, kept, clock) if settings.refreshes else None
        own = (settings.password, settings.refresh_token)
        self._secrets = (
            *self._client.secrets(),
            *(secret for secret in own if secret is not None),
            *secret_fields(settings.extra),
        )
        # Texts that gatepass writes are not counted. Otherwise each use of a refresh token would cause the next.
        self._marks = () if file is None else (WatchedFile(file, clock.wall, is_bare).mark(),)

    def secrets(self) -> tuple[Secret, ...]:
        """Return the secrets, and a count of the refresh tokens that a person put into `refresh_token_file`.

        A changed count justifies an attempt at once.
        """
        return (*self._secrets, *self._marks)

    async def fetch(self) -> Token:
        """Return a new token; raise FetchFailure. `timeout_s` bounds all steps together."""
        by_s = self._clock.now() + self._settings.timeout_s
        endpoint = Endpoint(self._settings.endpoint)
        if self._discovery is None:
            return await self._mint(endpoint, by_s)
        endpoint = await self._discovery.endpoint(by_s)
        try:
            return await self._mint(endpoint, by_s)
        except FetchFailure:
            self._discovery.expire_soon()
            raise

    async def _mint(self, endpoint: Endpoint, by_s: float) -> Token:
        async def exchange(grant: Fields) -> TimedTokenResponse:
            timed_response = await self._send(endpoint, grant, by_s)
            if self._client.adjust_clock(timed_response):
                timed_response = await self._send(endpoint, grant, by_s)
            return timed_response

        timed_response = await self._rotation.refresh(exchange, by_s) if self._rotation is not None else None
        if timed_response is None:
            timed_response = await exchange(login_fields(self._settings))
            if self._rotation is not None:
                await self._rotation.store_from(timed_response)
        try:
            return self._at(endpoint).parse_token(timed_response)
        except FetchFailure as failure:
            raise self._advised(failure, timed_response, endpoint) from None

    async def _send(self, endpoint: Endpoint, grant: Fields, by_s: float) -> TimedTokenResponse:
        proof = self._client.proof(endpoint.token_url, self._clock.wall())
        headers: Headers = (*HEADERS, FORM, *proof.headers)
        # The operator's own fields come last, because they override.
        form = urlencode({**grant, **proof.fields, **extra_fields(self._settings)}).encode()
        request = OutboundRequest("POST", endpoint.token_url, headers, form)
        granted = (Secret(grant[name]) for name in ("refresh_token", "password") if name in grant)
        return await self._at(endpoint).send(request, (*self._secrets, *proof.secrets, *granted), by_s)

    def _at(self, endpoint: Endpoint) -> TokenEndpointClient:
        return replace(
            self._issuer, reply_format=replace(self._issuer.reply_format, issuer=display_host(endpoint.token_url))
        )

    def _advised(self, failure: FetchFailure, timed_response: TimedTokenResponse, endpoint: Endpoint) -> FetchFailure:
        code, own = code_of(timed_response.response), self._settings.client_auth
        supported = [SPELLINGS.get(method, method) for method in endpoint.methods]
        if code == "invalid_client" and supported and own not in supported:
            return with_advice(
                failure, f"client_auth is {own}, and the issuer supports {', '.join(dict.fromkeys(supported))}"
            )
        if code in INVALID_GRANT_CODES and self._rotation is not None and self._rotation.is_last:
            return with_advice(failure, new_login_advice(self._settings))
        return failure
