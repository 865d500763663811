"""`type: oauth2`: the settings of OAuth 2.0 grants and client authentication, and which of them fit together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from gatepass.config.block import SecretText, SettingFault, Url
from gatepass.config.credential.base import Credential

GrantType = Literal["client_credentials", "jwt_bearer", "token_exchange"]
ClientAuth = Literal["basic", "form", "private_key_jwt", "assertion_file", "mtls", "none"]


class Oauth2Credential(Credential):
    """OAuth 2.0 (RFC 6749): the grants that work without a browser and without a stored refresh token. Keys
    and certificates that cannot sign are errors at load."""

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
    """The method of client authentication. Settings of another method have no effect.

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
        method, grant = self.client_auth, self.grant_type
        needed = {"basic": "client_secret", "form": "client_secret", "assertion_file": "assertion_file"}.get(method)
        if needed is not None and getattr(self, needed) is None:
            yield needed, f"is missing: client_auth: {method} requires it"
        if method == "mtls" and self.network.client_cert is None:
            yield "client_auth", "is mtls, which requires a certificate: set network.client_cert"
        if method == "mtls" and urlsplit(self.token_url).scheme == "http":
            yield "client_auth", "is mtls, and plain HTTP has no certificates: use https"
        # `extra` may hold another grant, which needs no client authentication.
        if method == "none" and grant == "client_credentials" and "grant_type" not in self.extra:
            yield "client_auth", "is none, but the client_credentials grant requires client authentication"
        if method == "private_key_jwt" and not self.signs:
            yield "private_key", "is missing (or certificate_file): client_auth: private_key_jwt signs with it"
        elif self.subject_is_signed and not self.signs:
            yield "private_key", "is missing: gatepass signs the assertion about subject with it"
        if grant != "client_credentials" and self.subject_file is None and not self.subject_is_signed:
            other = " (or subject)" if grant == "jwt_bearer" else ""
            yield "subject_file", f"is missing{other}: grant_type: {grant} presents a token"

    @property
    def subject_is_signed(self) -> bool:
        """Whether gatepass signs the assertion about `subject`."""
        return self.grant_type == "jwt_bearer" and self.subject_file is None and self.subject is not None
