"""The source of `type: oauth2`: a grant, with the client's proof, to the token endpoint."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

import httpx2

from gatepass.clock import Clock
from gatepass.config.credential.oauth2 import SPELLINGS, Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.life import Token
from gatepass.tokens.secrets import secret_fields
from gatepass.tokens.sources.client_auth import Client
from gatepass.tokens.sources.grant import DEAD_GRANT, Fields, advised, code_of, sign_in, sign_in_anew, wishes
from gatepass.tokens.sources.oauth2 import Discovery, Endpoint
from gatepass.tokens.sources.refresh_token import FileKeepsake, Handwriting, Keepsake, MemoryKeepsake
from gatepass.tokens.sources.rotation import Rotation
from gatepass.tokens.token_endpoint import HEADERS, Heard, Issuer, host_of
from gatepass.tokens.token_reply import Terms
from gatepass.types import Headers, Request, Secret

FORM = (b"content-type", b"application/x-www-form-urlencoded")


class Oauth2Source:
    """Mints by one grant. Refresh tokens are kept in `refresh_token_file`, else in `keepsake`, else in memory."""

    def __init__(
        self,
        name: str,
        settings: Oauth2Credential,
        client: httpx2.AsyncClient,
        clock: Clock,
        keepsake: Keepsake | None = None,
    ) -> None:
        address = "token_url" if settings.issuer is None else None
        terms = Terms(
            host_of(settings.endpoint),
            settings.default_ttl_s,
            settings.max_ttl_s,
            credential=name,
            address=address,
            audience=settings.audience,
        )
        self._settings = settings
        self._clock = clock
        self._issuer = Issuer(name, settings, terms, client, clock)
        self._client = Client(settings)
        self._discovery = Discovery(settings, self._issuer, clock) if settings.issuer is not None else None
        file = settings.refresh_token_file
        kept = FileKeepsake(file, clock) if file is not None else keepsake or MemoryKeepsake(clock)
        self._rotation = Rotation(name, settings, kept, clock) if settings.refreshes else None
        own = (settings.password, settings.refresh_token)
        self._secrets = (
            *self._client.secrets(),
            *(secret for secret in own if secret is not None),
            *secret_fields(settings.extra),
        )
        self._marks = () if file is None else (Handwriting(file, clock.wall).mark(),)

    def __repr__(self) -> str:
        return f"Oauth2Source({self._issuer.name})"

    def secrets(self) -> tuple[Secret, ...]:
        """With a mark of what a person has put into `refresh_token_file`: that is worth a try at once."""
        return (*self._secrets, *self._marks)

    async def fetch(self) -> Token:
        """A token of this moment; raises FetchFailure. All its steps together are bounded by `timeout_s`."""
        by_s = self._clock.now() + self._settings.timeout_s
        endpoint = Endpoint(self._settings.endpoint)
        if self._discovery is None:
            return await self._mint(endpoint, by_s)
        endpoint = await self._discovery.endpoint(by_s)
        try:
            return await self._mint(endpoint, by_s)
        except FetchFailure:
            self._discovery.doubt()
            raise

    async def _mint(self, endpoint: Endpoint, by_s: float) -> Token:
        async def exchange(grant: Fields) -> Heard:
            return await self._exchange(endpoint, grant, by_s)

        heard = await self._rotation.renewed(exchange, by_s) if self._rotation is not None else None
        if heard is None:
            heard = await exchange(sign_in(self._settings))
            if self._rotation is not None:
                await self._rotation.heed(heard)
        try:
            return self._at(endpoint).token(heard)
        except FetchFailure as failure:
            raise self._advised(failure, heard, endpoint) from None

    async def _exchange(self, endpoint: Endpoint, grant: Fields, by_s: float) -> Heard:
        heard = await self._ask(endpoint, grant, by_s)
        return await self._ask(endpoint, grant, by_s) if self._client.heed(heard) else heard

    async def _ask(self, endpoint: Endpoint, grant: Fields, by_s: float) -> Heard:
        proof = self._client.proof(endpoint.token_url, self._clock.wall())
        headers: Headers = (*HEADERS, FORM, *proof.headers)
        form = urlencode({**grant, **proof.fields, **wishes(self._settings)}).encode()
        request = Request("POST", endpoint.token_url, headers, form)
        granted = (Secret(grant[name]) for name in ("refresh_token", "password") if name in grant)
        return await self._at(endpoint).ask(request, (*self._secrets, *proof.secrets, *granted), by_s)

    def _at(self, endpoint: Endpoint) -> Issuer:
        return replace(self._issuer, terms=replace(self._issuer.terms, issuer=host_of(endpoint.token_url)))

    def _advised(self, failure: FetchFailure, heard: Heard, endpoint: Endpoint) -> FetchFailure:
        code, own = code_of(heard.reply), self._settings.client_auth
        taken = [SPELLINGS.get(method, method) for method in endpoint.methods]
        if code == "invalid_client" and taken and own not in taken:
            return advised(failure, f"client_auth is {own}, and the issuer takes {', '.join(dict.fromkeys(taken))}")
        if code in DEAD_GRANT and self._rotation is not None and self._rotation.is_last:
            return advised(failure, sign_in_anew(self._settings))
        return failure
