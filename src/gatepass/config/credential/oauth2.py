"""`type: oauth2`: the settings of OAuth 2.0 grants and client authentication, and which of them fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema

from gatepass.config.block import SecretText, SettingFault, Url
from gatepass.config.credential.base import Credential

GrantType = Literal["client_credentials", "jwt_bearer", "token_exchange"]
Method = Literal["basic", "form", "private_key_jwt", "assertion_file", "mtls", "none"]

SPELLINGS: Mapping[str, Method] = {
    "client_secret_basic": "basic",
    "client_secret_post": "form",
    "tls_client_auth": "mtls",
    "self_signed_tls_client_auth": "mtls",
}
"""Registered names of client authentication methods (RFC 7591 2, OpenID Connect Core 9, RFC 8705 2) and gatepass's."""
OF_METHODS: Mapping[str, tuple[Method, ...]] = {
    "client_secret": ("basic", "form"),
    "assertion_file": ("assertion_file",),
}
"""Settings that the given methods need, and no other one uses."""
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "jwt_bearer": ("subject_file", "subject"),
    "token_exchange": ("subject_file",),
}
"""The grants that present another token, and the settings that may give it."""


def method_of(value: Any) -> Any:
    """Return gatepass's name for a registered name of a client authentication method; any other value unchanged."""
    return SPELLINGS.get(value, value) if isinstance(value, str) else value


ClientAuth = Annotated[
    Method, BeforeValidator(method_of), WithJsonSchema({"type": "string", "enum": [*get_args(Method), *SPELLINGS]})
]


class Oauth2Credential(Credential):
    """OAuth 2.0 (RFC 6749): the grants that work without a browser and without a stored refresh token. Settings that
    cannot work together, and keys and certificates that cannot sign, are errors at load."""

    type: Literal["oauth2"]
    token_url: Url
    """The URL of the token endpoint: `token_endpoint` in the issuer's `/.well-known/openid-configuration`.

    Example: https://sso.corp.example/token
    """
    issuer: str | None = None
    """The audience of the assertions that gatepass signs. None: `token_url`.

    Example: https://sso.corp.example/realms/corp
    """
    grant_type: GrantType = "client_credentials"
    """The OAuth grant. docs/tokens.md has recipes for a refresh token, a password and a chain of credentials.

    - `jwt_bearer`: a signed assertion about the subject (RFC 7523 2.1)
    - `token_exchange`: the exchange of another token (RFC 8693)
    """
    client_id: Annotated[str, Field(min_length=1)]
    """The client id.

    Example: gatepass
    """
    client_auth: ClientAuth = "basic"
    """The method of client authentication. The names registered for OAuth, such as `client_secret_basic`,
    `client_secret_post`, `tls_client_auth` and `self_signed_tls_client_auth`, are synonyms.

    - `basic`: the secret in an Authorization header
    - `form`: the secret in the form
    - `private_key_jwt`: an assertion signed with a private key
    - `assertion_file`: an assertion that another program keeps in `assertion_file`
    - `mtls`: the certificate of `network.client_cert` (RFC 8705)
    - `none`: no authentication
    """
    client_secret: SecretText | None = None
    """The client secret for `basic` and `form`.

    Example: ${CLIENT_SECRET}
    """
    private_key: SecretText | None = None
    """The private key for `private_key_jwt` and `subject` as PEM without a pass phrase: RSA with at least 2048 bits
    (RS256), P-256 (ES256) or Ed25519 (EdDSA). It requires the extra `crypto`. A key in a file is read again when the
    file changes.

    Example: ${file:/run/secrets/key.pem}
    """
    key_id: str | None = None
    """The `kid` of the key at the issuer.

    Example: key-2027
    """
    certificate_file: str | None = None
    """A PEM file with a certificate and its RSA key, instead of `private_key` and `key_id`. The assertion names the
    certificate (`x5t#S256`), as Microsoft Entra ID requires, and is signed with PS256. It requires the extra `crypto`.
    gatepass reads the file again for each token.

    Example: /run/secrets/app.pem
    """
    assertion_file: str | None = None
    """The file with the JWT of `client_auth: assertion_file`: a projected service-account token of Kubernetes, or a
    JWT-SVID. gatepass reads it for each fetch.

    Example: /var/run/secrets/tokens/gatepass
    """
    subject: str | None = None
    """The `sub` of the assertion that gatepass signs with `private_key` for `grant_type: jwt_bearer`. `iss` is the
    client id.

    Example: svc-llm
    """
    subject_file: str | None = None
    """The file with the assertion of `jwt_bearer`, or with the token that `token_exchange` presents. gatepass reads it
    for each fetch.

    Example: /var/run/secrets/tokens/gatepass
    """
    scope: str | None = None
    """Scopes, separated by spaces.

    Example: llm.read
    """
    audience: str | None = None
    """The API that the token is for, if the issuer requires it. `gatepass token NAME` shows the `aud` of a JWT.

    Example: https://llm.corp.example
    """
    extra: dict[str, SecretText] = {}
    """Additional form fields that the issuer requires, such as `resource` (RFC 8707) or `requested_token_type` (RFC
    8693). They replace those of the same name that gatepass sends.

    Example: {resource: "https://llm.corp.example"}
    """

    @property
    def signs(self) -> bool:
        """Whether a key is configured."""
        return self.private_key is not None or self.certificate_file is not None

    def faults(self) -> Iterator[SettingFault]:
        for find in (_client_auth_faults, _subject_faults):
            yield from find(self)


def _client_auth_faults(block: Oauth2Credential) -> Iterator[SettingFault]:
    method = block.client_auth
    for setting, methods in OF_METHODS.items():
        if (getattr(block, setting) is not None) is not (method in methods):
            missing, unused = "is missing: client_auth: {} requires it", "belongs to client_auth: {}"
            yield setting, missing.format(method) if method in methods else unused.format(" or ".join(methods))
    if method == "mtls" and block.network.client_cert is None:
        yield "client_auth", "is mtls, which requires a certificate: set network.client_cert"
    if method == "mtls" and urlsplit(block.token_url).scheme == "http":
        yield "client_auth", "is mtls, and plain HTTP has no certificates: use https"
    # `extra` may hold another grant, which needs no client authentication.
    if method == "none" and block.grant_type == "client_credentials" and "grant_type" not in block.extra:
        yield "client_auth", "is none, but the client_credentials grant requires client authentication"
    if method == "private_key_jwt" and not block.signs:
        yield "private_key", "is missing (or certificate_file): client_auth: private_key_jwt signs with a private key"
    for setting in ("private_key", "key_id", "certificate_file"):
        if method != "private_key_jwt" and block.subject is None and getattr(block, setting) is not None:
            yield setting, "belongs to client_auth: private_key_jwt"
    for setting in ("private_key", "key_id"):
        if block.certificate_file is not None and getattr(block, setting) is not None:
            yield setting, "conflicts with certificate_file, which contains the key: keep one of them"


def _subject_faults(block: Oauth2Credential) -> Iterator[SettingFault]:
    grant, ways = block.grant_type, SUBJECTS.get(block.grant_type, ())
    given = [name for name in SUBJECTS["jwt_bearer"] if getattr(block, name) is not None]
    for name in given:
        if name not in ways:
            grants = " or ".join(grant for grant, names in SUBJECTS.items() if name in names)
            yield name, f"belongs to grant_type: {grants}"
    used = [name for name in given if name in ways]
    if ways and not used:
        others = "".join(f" (or {name})" for name in ways[1:])
        yield ways[0], f"is missing{others}: grant_type: {grant} presents a token"
    for name in used[1:]:
        yield name, f"conflicts with {used[0]}: keep one of them"
    if "subject" in used and not block.signs and block.client_auth != "private_key_jwt":
        yield "private_key", "is missing: gatepass signs the assertion about subject with it"
