"""`type: oauth2`."""

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
"""The names of OAuth's registry (RFC 7591 2, OpenID Connect Core 9, RFC 8705 2) that differ from ours."""
WITH_SECRET = frozenset(("basic", "form", "secret_jwt"))
WITH_ASSERTION = frozenset(("secret_jwt", "private_key_jwt"))
WELL_KNOWN = "/.well-known/"


def method_of(value: Any) -> Any:
    """Our name of a client authentication that is called as OAuth calls it; anything else as it is."""
    return SPELLINGS.get(value, value) if isinstance(value, str) else value


ClientAuth = Annotated[
    Method, BeforeValidator(method_of), WithJsonSchema({"type": "string", "enum": [*get_args(Method), *SPELLINGS]})
]


class Oauth2Credential(Credential):
    """OAuth 2.0 (RFC 6749): the grants that need nobody at a browser."""

    type: Literal["oauth2"]
    """Where the token comes from."""
    token_url: Url | None = None
    """The issuer's token endpoint; either this or `issuer`."""
    issuer: Url | None = None
    """The issuer's own name, a URL whose discovery document names the token endpoint."""
    grant_type: GrantType = "client_credentials"
    """How to sign in."""
    client_id: Annotated[str, Field(min_length=1)]
    """Who asks."""
    client_auth: ClientAuth = "basic"
    """How the client proves who it is."""
    client_secret: SecretText | None = None
    """The proof of `basic`, `form` and `secret_jwt`, best by reference."""
    private_key: SecretText | None = None
    """The key of `private_key_jwt` as PEM, by reference."""
    private_key_file: str | None = None
    """The same as a file, which is read again when it changes."""
    key_id: str | None = None
    """The `kid` by which the issuer knows the key."""
    certificate_file: str | None = None
    """The key's certificate as PEM, for issuers that know it by `x5t#S256`."""
    algorithm: Algorithm | None = None
    """What the key signs with; None takes RS256 for an RSA key and ES256 for one on P-256."""
    assertion_audience: str = "token_url"
    """Whom signed assertions are for: `token_url`, `issuer`, or a text of your own."""
    username: str | None = None
    """Of the `password` grant."""
    password: SecretText | None = None
    """Of the `password` grant, best by reference."""
    refresh_token: SecretText | None = None
    """The refresh token to begin with, by reference."""
    refresh_token_file: str | None = None
    """Where the newest refresh token is kept over restarts; gatepass writes it."""
    scope: str | None = None
    """Scopes, separated by spaces."""
    audience: str | None = None
    """The API that the token is for, where the issuer wants it told."""
    resource: str | None = None
    """The same in RFC 8707's way."""
    extra: dict[str, SecretText] = {}
    """More form fields, as the issuer wants them."""

    @property
    def endpoint(self) -> str:
        """The configured URL by which people know the issuer."""
        return self.token_url or self.issuer or ""

    @property
    def refreshes(self) -> bool:
        """Whether refresh tokens are used where there are any."""
        return self.grant_type != "client_credentials" or bool(self.refresh_token or self.refresh_token_file)

    @field_validator("issuer")
    @classmethod
    def _bare(cls, url: str | None) -> str | None:
        if url is not None and WELL_KNOWN in url:
            raise ValueError(f"names its document: let it end before {WELL_KNOWN}")
        if url is not None and "?" in url:
            raise ValueError("holds a query: an issuer's name has none (RFC 8414 2)")
        return url

    @model_validator(mode="after")
    def _possible(self) -> Self:
        """Tells each impossible combination at the setting that is to be changed."""
        if found := [*_place(self), *_proof(self), *_key(self), *_grant(self)]:
            raise settings_error(type(self).__name__, found)
        return self


def _place(block: Oauth2Credential) -> Iterator[SettingFault]:
    if block.token_url is None and block.issuer is None:
        yield "token_url", "is missing (or issuer, whose own document names it)"
    if block.token_url is not None and block.issuer is not None:
        yield "issuer", "stands beside token_url: keep one of them"
    if block.assertion_audience == "issuer" and block.issuer is None:
        yield "assertion_audience", "is issuer, and there is none: write the audience itself"
    if block.assertion_audience != "token_url" and block.client_auth not in WITH_ASSERTION:
        yield "assertion_audience", f"says nothing with client_auth: {block.client_auth}, which signs nothing"


def _proof(block: Oauth2Credential) -> Iterator[SettingFault]:
    method = block.client_auth
    if method in WITH_SECRET and block.client_secret is None:
        yield "client_secret", f"is missing: client_auth: {method} proves the client by it"
    if method not in WITH_SECRET and block.client_secret is not None:
        yield "client_secret", f"says nothing with client_auth: {method}: remove it"
    if method == "mtls" and block.network.client_cert is None:
        yield "client_auth", "is mtls, which wants a certificate: set network.client_cert"
    if method == "mtls" and urlsplit(block.endpoint).scheme == "http":
        yield "client_auth", "is mtls, and there is no certificate in plain HTTP: use https"
    if method == "none" and block.grant_type == "client_credentials" and "grant_type" not in block.extra:
        yield "client_auth", "is none, and the client_credentials grant is for clients that prove who they are"


def _key(block: Oauth2Credential) -> Iterator[SettingFault]:
    if block.client_auth == "private_key_jwt":
        if block.private_key is None and block.private_key_file is None:
            yield "private_key_file", "is missing: client_auth: private_key_jwt signs with a private key"
        if block.private_key is not None and block.private_key_file is not None:
            yield "private_key", "stands beside private_key_file: keep one of them"
        return
    for setting in ("private_key", "private_key_file", "key_id", "certificate_file", "algorithm"):
        if getattr(block, setting) is not None:
            yield setting, "belongs to client_auth: private_key_jwt"


def _grant(block: Oauth2Credential) -> Iterator[SettingFault]:
    for setting in ("username", "password"):
        given = getattr(block, setting) is not None
        if given and block.grant_type != "password":
            yield setting, "belongs to grant_type: password"
        if not given and block.grant_type == "password":
            yield setting, "is missing: grant_type: password signs in with it"
    has_token = block.refresh_token is not None or block.refresh_token_file is not None
    if block.grant_type == "refresh_token" and not has_token:
        yield "refresh_token", "is missing (or refresh_token_file, which holds one)"
    for name in block.extra:  # of two fields with one name an issuer believes either
        if name in _filled(block):
            yield "extra", f"holds {name}, which gatepass fills itself: remove it"


def _filled(block: Oauth2Credential) -> set[str]:
    """The form fields that gatepass fills itself."""
    filled = {name for name in ("scope", "audience", "resource") if getattr(block, name) is not None}
    if block.refreshes or "grant_type" in block.model_fields_set:
        filled |= {"grant_type", "refresh_token", "username", "password"}
    if block.client_auth != "basic":
        filled.add("client_id")
    if block.client_auth == "form":
        filled.add("client_secret")
    if block.client_auth in WITH_ASSERTION:
        filled |= {"client_assertion", "client_assertion_type"}
    return filled
