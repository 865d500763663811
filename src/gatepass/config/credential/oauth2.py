"""`type: oauth2`: the settings of OAuth 2.0 grants and client authentication, and which of them fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from gatepass.config.block import SecretText, Url
from gatepass.config.credential.base import Credential, SettingFault, settings_error

GrantType = Literal["client_credentials", "password", "refresh_token"]
Method = Literal["basic", "form", "secret_jwt", "private_key_jwt", "mtls", "none"]
Algorithm = Literal["RS256", "PS256", "ES256"]

SPELLINGS: Mapping[str, Method] = {
    "client_secret_basic": "basic",
    "client_secret_post": "form",
    "client_secret_jwt": "secret_jwt",
    "tls_client_auth": "mtls",
    "self_signed_tls_client_auth": "mtls",
}
"""Registered names of client authentication methods (RFC 7591 2, OpenID Connect Core 9, RFC 8705 2) and gatepass's."""
WITH_SECRET = frozenset(("basic", "form", "secret_jwt"))
WITH_ASSERTION = frozenset(("secret_jwt", "private_key_jwt"))
WELL_KNOWN = "/.well-known/"


def method_of(value: Any) -> Any:
    """Return gatepass's name for a registered name of a client authentication method; any other value unchanged."""
    return SPELLINGS.get(value, value) if isinstance(value, str) else value


ClientAuth = Annotated[
    Method, BeforeValidator(method_of), WithJsonSchema({"type": "string", "enum": [*get_args(Method), *SPELLINGS]})
]


class Oauth2Credential(Credential):
    """OAuth 2.0 (RFC 6749): the grants that work without a browser."""

    type: Literal["oauth2"]
    """The type of the token source."""
    token_url: Url | None = None
    """The URL of the token endpoint; either this or `issuer`."""
    issuer: Url | None = None
    """The issuer's name: a URL whose discovery document names the token endpoint."""
    grant_type: GrantType = "client_credentials"
    """The OAuth grant."""
    client_id: Annotated[str, Field(min_length=1)]
    """The client id."""
    client_auth: ClientAuth = "basic"
    """The method of client authentication."""
    client_secret: SecretText | None = None
    """The client secret for `basic`, `form` and `secret_jwt`, best as a reference."""
    private_key: SecretText | None = None
    """The private key for `private_key_jwt` as PEM, by reference."""
    private_key_file: str | None = None
    """A file with that key. gatepass reads it again when it changes."""
    key_id: str | None = None
    """The `kid` of the key at the issuer."""
    certificate_file: str | None = None
    """The key's certificate as PEM, for issuers that identify it by `x5t#S256`."""
    algorithm: Algorithm | None = None
    """The signature algorithm; None: RS256 for an RSA key, ES256 for a key on P-256."""
    assertion_audience: str = "token_url"
    """The audience of signed assertions: `token_url`, `issuer`, or your own text."""
    username: str | None = None
    """The user name of the `password` grant."""
    password: SecretText | None = None
    """The password of the `password` grant, best as a reference."""
    refresh_token: SecretText | None = None
    """The first refresh token, by reference."""
    refresh_token_file: str | None = None
    """A file that keeps the newest refresh token across restarts; gatepass writes it."""
    scope: str | None = None
    """Scopes, separated by spaces."""
    audience: str | None = None
    """The API that the token is for, if the issuer requires it."""
    resource: str | None = None
    """The API that the token is for, as a resource indicator (RFC 8707)."""
    extra: dict[str, SecretText] = {}
    """Additional form fields that the issuer requires."""

    @property
    def endpoint(self) -> str:
        """The configured URL of the issuer."""
        return self.token_url or self.issuer or ""

    @property
    def refreshes(self) -> bool:
        """Whether gatepass uses refresh tokens that the issuer returns."""
        return self.grant_type != "client_credentials" or bool(self.refresh_token or self.refresh_token_file)

    @field_validator("issuer")
    @classmethod
    def _is_name(cls, url: str | None) -> str | None:
        if url is not None and WELL_KNOWN in url:
            raise ValueError(f"is the URL of the discovery document: end it before {WELL_KNOWN}")
        if url is not None and "?" in url:
            raise ValueError("holds a query: an issuer's name has none (RFC 8414 2)")
        return url

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := [*_issuer_faults(self), *_client_auth_faults(self), *_key_faults(self), *_grant_faults(self)]:
            raise settings_error(type(self).__name__, found)
        return self


def _issuer_faults(block: Oauth2Credential) -> Iterator[SettingFault]:
    if block.token_url is None and block.issuer is None:
        yield "token_url", "is missing (or issuer, whose discovery document names it)"
    if block.token_url is not None and block.issuer is not None:
        yield "issuer", "conflicts with token_url: keep one of them"
    if block.assertion_audience == "issuer" and block.issuer is None:
        yield "assertion_audience", "is issuer, but issuer is not set: write the audience itself"
    if block.assertion_audience != "token_url" and block.client_auth not in WITH_ASSERTION:
        yield "assertion_audience", f"has no effect with client_auth: {block.client_auth}, which signs nothing"


def _client_auth_faults(block: Oauth2Credential) -> Iterator[SettingFault]:
    method = block.client_auth
    if method in WITH_SECRET and block.client_secret is None:
        yield "client_secret", f"is missing: client_auth: {method} requires it"
    if method not in WITH_SECRET and block.client_secret is not None:
        yield "client_secret", f"has no effect with client_auth: {method}: remove it"
    if method == "mtls" and block.network.client_cert is None:
        yield "client_auth", "is mtls, which requires a certificate: set network.client_cert"
    if method == "mtls" and urlsplit(block.endpoint).scheme == "http":
        yield "client_auth", "is mtls, and plain HTTP has no certificates: use https"
    # `extra` may hold another grant, which needs no client authentication.
    if method == "none" and block.grant_type == "client_credentials" and "grant_type" not in block.extra:
        yield "client_auth", "is none, but the client_credentials grant requires client authentication"


def _key_faults(block: Oauth2Credential) -> Iterator[SettingFault]:
    if block.client_auth == "private_key_jwt":
        if block.private_key is None and block.private_key_file is None:
            yield "private_key_file", "is missing: client_auth: private_key_jwt signs with a private key"
        if block.private_key is not None and block.private_key_file is not None:
            yield "private_key", "conflicts with private_key_file: keep one of them"
        return
    for setting in ("private_key", "private_key_file", "key_id", "certificate_file", "algorithm"):
        if getattr(block, setting) is not None:
            yield setting, "belongs to client_auth: private_key_jwt"


def _grant_faults(block: Oauth2Credential) -> Iterator[SettingFault]:
    for setting in ("username", "password"):
        given = getattr(block, setting) is not None
        if given and block.grant_type != "password":
            yield setting, "belongs to grant_type: password"
        if not given and block.grant_type == "password":
            yield setting, "is missing: grant_type: password requires it"
    has_token = block.refresh_token is not None or block.refresh_token_file is not None
    if block.grant_type == "refresh_token" and not has_token:
        yield "refresh_token", "is missing (or refresh_token_file, which holds one)"
    own_fields = {name for name in ("scope", "audience", "resource") if getattr(block, name) is not None}
    # `extra` may replace the default grant, but not one that is configured.
    if block.refreshes or "grant_type" in block.model_fields_set:
        own_fields |= {"grant_type", "refresh_token", "username", "password"}
    # `basic` sends the client id in a header, so `extra` may hold it.
    if block.client_auth != "basic":
        own_fields.add("client_id")
    if block.client_auth == "form":
        own_fields.add("client_secret")
    if block.client_auth in WITH_ASSERTION:
        own_fields |= {"client_assertion", "client_assertion_type"}
    for name in block.extra:
        if name in own_fields:  # an issuer may use either of two fields with the same name
            yield "extra", f"holds {name}, which gatepass sets itself: remove it"
