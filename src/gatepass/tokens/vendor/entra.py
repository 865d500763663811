"""Microsoft Entra ID, through azure-identity."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import httpx2
from azure.core.credentials import AccessTokenInfo
from azure.core.exceptions import AzureError
from azure.identity import aio

from gatepass.call import Secret
from gatepass.config.credential.entra import EntraCredential
from gatepass.config.references import read_file
from gatepass.runtime import Clock
from gatepass.tokens.issuer import hush
from gatepass.tokens.life import Token
from gatepass.tokens.secret import revealed
from gatepass.tokens.vendor.azure_transport import AzureTransport
from gatepass.tokens.vendor.entra_certificate import CertificateFile
from gatepass.tokens.vendor.errand import MISHAPS, Errand, Hop

LIBRARY = "azure-identity"


class _Credential(AbstractAsyncContextManager[Any], Protocol):
    async def get_token_info(self, *scopes: str) -> AccessTokenInfo: ...


class EntraSource:
    """Each fetch makes a credential object of its own: none caches a token, and a changed file counts."""

    def __init__(self, name: str, settings: EntraCredential, client: httpx2.AsyncClient, clock: Clock) -> None:
        hush("azure", "msal")
        self._settings = settings
        self._hop = Hop(name, settings, client, clock, frozenset() if settings.managed_identity else None)
        self._certificate = _certificate(settings)
        self._federated = _federated(settings)

    def __repr__(self) -> str:
        return f"EntraSource({self._hop.name})"

    def secrets(self) -> tuple[Secret, ...]:
        settings = self._settings
        own = filter(None, (settings.client_secret, settings.certificate_password, self._federated))
        return (*own, *([Secret(self._certificate.fingerprint)] if self._certificate else []))

    async def fetch(self) -> Token:
        errand = Errand(self._hop, LIBRARY, self.secrets())
        return await errand.run(self._token(errand))

    async def _token(self, errand: Errand) -> Token:
        try:
            async with self._credential(AzureTransport(errand)) as credential:
                info = await credential.get_token_info(self._settings.scope)
        except (AzureError, *MISHAPS) as error:
            raise errand.failed(str(error)) from error
        return errand.made(info.token, info.expires_on)

    def _credential(self, transport: AzureTransport) -> _Credential:
        settings = self._settings
        # retries are the holder's; within one fetch the library would go on for minutes
        common: dict[str, Any] = {"transport": transport, "retry_total": 0, "retry_status": 0}
        if settings.managed_identity:
            named: dict[str, Any] = {} if settings.client_id is None else {"client_id": settings.client_id}
            return aio.ManagedIdentityCredential(**named, **common)
        common["authority"] = settings.authority_host
        tenant, client = settings.tenant_id or "", settings.client_id or ""
        if settings.client_secret is not None:
            secret = revealed(settings.client_secret, "client_secret")
            return aio.ClientSecretCredential(tenant, client, secret, **common)
        return aio.ClientAssertionCredential(tenant, client, self._assertion, **common)

    def _assertion(self) -> str:
        """What the application shows instead of a secret."""
        settings = self._settings
        if self._certificate is None:
            return revealed(self._federated or Secret(""), "federated_token_file")
        audience = f"{settings.authority_host.rstrip('/')}/{settings.tenant_id}/oauth2/v2.0/token"
        return self._certificate.current().assertion(settings.client_id or "", audience, self._hop.clock.wall())


def _certificate(settings: EntraCredential) -> CertificateFile | None:
    path = settings.certificate_file
    return None if path is None else CertificateFile(path, settings.certificate_password)


def _federated(settings: EntraCredential) -> Secret | None:
    path = settings.federated_token_file
    return None if path is None else Secret(lambda: read_file(path).strip())
