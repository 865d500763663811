"""Fetch tokens of Microsoft Entra ID through azure-identity."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
from azure.core.credentials_async import AsyncSupportsTokenInfo
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import AsyncHttpResponse, AsyncHttpTransport, HttpRequest
from azure.core.utils import case_insensitive_dict
from azure.identity import aio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

from gatepass.clock import Clock
from gatepass.config.certificates import check_signature
from gatepass.config.credential.vendor import EntraCredential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import TokenResponse
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import in_file, revealed
from gatepass.tokens.token_endpoint import Connect, quiet_loggers
from gatepass.tokens.vendor.fetch import LIBRARY_ERRORS, VendorEndpoints, VendorFetch
from gatepass.types import Secret

LIFE_S = 600
"""Lifetime of an assertion: enough for a clock that is minutes fast or slow."""
LIBRARY = "azure-identity"


class AzureTransport(AsyncHttpTransport[HttpRequest, AsyncHttpResponse]):
    """Sends every request of an azure pipeline through one VendorFetch, whose time limit replaces the pipeline's."""

    def __init__(self, vendor_fetch: VendorFetch) -> None:
        self._fetch = vendor_fetch

    async def send(self, request: HttpRequest, **_: Any) -> AsyncHttpResponse:
        reply = await self._fetch.send(request.method, request.url, request.headers, _body(request))
        return _Response(request, reply)

    async def open(self) -> None:
        """Do nothing: the HTTP client is open."""

    async def close(self) -> None:
        """Do nothing: the credential owns the HTTP client."""

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Response(AsyncHttpResponse):
    """A complete reply. azure-core reads its attributes and `text()`."""

    def __init__(self, request: HttpRequest, reply: TokenResponse) -> None:
        super().__init__(request, None)
        self._body = reply.body
        self.status_code = reply.status
        self.reason = ""
        self.headers = case_insensitive_dict(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
        )
        self.content_type = self.headers.get("content-type", "")

    def body(self) -> bytes:
        return self._body

    def text(self, _: str | None = None) -> str:
        return self._body.decode("utf-8-sig", "replace")


def _body(request: HttpRequest) -> bytes:
    """Return the body. azure-identity 1.25 sends this HttpRequest, 1.27 that of azure.core.rest; both have a `body`."""
    content = request.body
    if isinstance(content, dict):
        return urlencode(content).encode()
    return content.encode() if isinstance(content, str) else content or b""


@dataclass(frozen=True, slots=True)
class EntraCertificate:
    """A key and the thumbprint by which the directory identifies its certificate."""

    key: RSAPrivateKey = field(repr=False)
    thumbprint: str

    def assertion(self, client_id: str, audience: str, wall_s: float) -> str:
        """Return an assertion for `audience`, the token endpoint's URL, in the format of azure-identity 1.27."""
        issued_s = int(wall_s)
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": secrets.token_urlsafe(18),
            # An issuer whose clock is behind would reject a future `nbf`.
            "nbf": issued_s - LIFE_S // 2,
            "exp": issued_s + LIFE_S,
        }
        return jwt.encode(claims, self.key, algorithm="PS256", headers={"x5t#S256": self.thumbprint})


class CertificateFile:
    """The certificate in a file, parsed only after a change of the file or its pass phrase."""

    def __init__(self, path: str, password: Secret | None) -> None:
        self._path = path
        self._password = password
        # PKCS #12 with RSA-2048 takes 40 ms, in which no other thread runs.
        self._parse = lru_cache(maxsize=1)(certificate)

    def current(self) -> EntraCertificate:
        """Return the certificate; raise FetchFailure if the file is absent or invalid."""
        password = None if self._password is None else revealed(self._password, "certificate_password")
        try:
            return self._parse(Path(self._path).read_bytes(), password)
        except OSError as error:
            raise FetchFailure(f"{self._here} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise FetchFailure(f"{self._here} {error}") from None

    def fingerprint(self) -> str:
        """Return a digest that changes with the file; raise ValueError. The key is never sent, so nothing is masked."""
        try:
            return sha256(Path(self._path).read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(error.strerror) from None

    @property
    def _here(self) -> str:
        return f"certificate_file: {self._path}"


def certificate(data: bytes, password: str | None) -> EntraCertificate:
    """Return the certificate and key in `data`, PEM or PKCS #12; raise ValueError, which quotes none of it."""
    phrase = password.encode() if password else None
    try:
        key: object
        found: x509.Certificate | None
        if b"-----BEGIN" in data:
            # RSA-4096 takes 0.3 s to validate, and no other thread runs meanwhile
            key = load_pem_private_key(data, phrase, unsafe_skip_rsa_key_validation=True)
            found = x509.load_pem_x509_certificate(data)
        else:
            key, found, _ = load_key_and_certificates(data, phrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("contains no readable certificate with its key, or has another pass phrase") from None
    if not isinstance(key, RSAPrivateKey) or found is None:
        raise ValueError("contains no certificate with an RSA key, which Entra ID requires")
    if key.public_key() != found.public_key():
        raise ValueError("contains a key that belongs to another certificate")
    check_signature(key)
    return EntraCertificate(key, urlsafe_b64encode(found.fingerprint(SHA256())).rstrip(b"=").decode())


class EntraSource:
    """Fetches through a new azure-identity object each time, so that no token is cached and a changed file applies."""

    def __init__(self, name: str, settings: EntraCredential, connect: Connect, clock: Clock) -> None:
        quiet_loggers("azure", "msal")
        self._settings = settings
        metadata = frozenset[str]() if settings.managed_identity else None  # these services are reached over plain HTTP
        self._endpoints = VendorEndpoints(name, settings, connect, clock, metadata)
        path, proof = settings.certificate_file, settings.federated_token_file
        self._certificate = None if path is None else CertificateFile(path, settings.certificate_password)
        self._federated = None if proof is None else in_file(proof)

    def secrets(self) -> tuple[Secret, ...]:
        settings = self._settings
        own = filter(None, (settings.client_secret, settings.certificate_password, self._federated))
        return (*own, *([Secret(self._certificate.fingerprint)] if self._certificate else []))

    async def fetch(self) -> Token:
        vendor_fetch = VendorFetch(self._endpoints, LIBRARY, self.secrets())
        return await vendor_fetch.run(self._token(vendor_fetch))

    async def _token(self, vendor_fetch: VendorFetch) -> Token:
        try:
            async with self._credential(AzureTransport(vendor_fetch)) as credential:
                info = await credential.get_token_info(self._settings.scope)
        except (AzureError, *LIBRARY_ERRORS) as error:
            raise vendor_fetch.failure_for(str(error)) from error
        return vendor_fetch.token_from_text(info.token, info.expires_on)

    def _credential(self, transport: AzureTransport) -> AsyncSupportsTokenInfo:
        settings = self._settings
        # The holder retries. Within one fetch the library would retry for minutes.
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
        if self._certificate is None:
            return revealed(self._federated or Secret(""), "federated_token_file")
        settings = self._settings
        audience = f"{settings.authority_host.rstrip('/')}/{settings.tenant_id}/oauth2/v2.0/token"
        return self._certificate.current().assertion(settings.client_id or "", audience, self._endpoints.clock.wall())
