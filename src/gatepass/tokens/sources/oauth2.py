"""Fetch tokens of `type: oauth2`: send a grant, with the client's proof, to the token endpoint (RFC 6749 4.4).

`ClientAuthenticator` makes the proof (RFC 6749 2.3, RFC 7523, RFC 8705), `Oauth2Source` the grant (also RFC 7523 2.1,
RFC 8693). An `Assertion` is part of either.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote_plus, urlencode

from gatepass.clock import Clock
from gatepass.config.advice import Advice
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import read_file
from gatepass.http_client.fault_text import host_of
from gatepass.replies.error_body import says_failure
from gatepass.replies.retry_after import sent_s
from gatepass.tokens import issuer_error
from gatepass.tokens.failure import FailureKind, FetchFailure
from gatepass.tokens.issuer_error import UNKNOWN_CLIENT, TimedTokenResponse
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import all_revealed, basic_credentials, revealed, secret_fields
from gatepass.tokens.sources.file import PresentedFile
from gatepass.tokens.token_endpoint import FORM, HEADERS, Connect, TokenEndpointClient
from gatepass.tokens.token_reply import TokenReplyFormat
from gatepass.types import Headers, OutboundRequest, Secret

Fields = Mapping[str, str]
MADE = ("assertion", "subject_token", "client_assertion")
"""Fields of a request that may hold a secret which is not a setting."""

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523 2.2."""
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
"""RFC 7523 2.1."""
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - the name of a grant
"""RFC 8693 2.1."""
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a type
"""RFC 8693 3."""
LIFETIME_S = 60
BACKDATED_S = 10
"""How far `iat` and `nbf` are in the past. An issuer with a slow clock would reject them as future times."""
_JTI_BYTES = 18
SKEW_S = 20.0
"""A clock skew from here on may be the reason why an assertion was refused: its issuer checks the times."""


def claims(client_id: str, subject: str, audience: str, wall_s: float) -> dict[str, Any]:
    """Return the claims of an assertion issued at `wall_s`: epoch seconds on the issuer's clock."""
    issued_s = int(wall_s) - BACKDATED_S
    return {
        "iss": client_id,
        "sub": subject,
        "aud": audience,
        # An issuer may reject an assertion that it has seen before (RFC 7523 3).
        "jti": secrets.token_urlsafe(_JTI_BYTES),
        "iat": issued_s,
        "nbf": issued_s,
        "exp": issued_s + LIFETIME_S,
    }


class Assertion:
    """What one credential presents to the issuer: a token in `file`, or a JWT about `subject` signed with `key`.

    `is_timed`: it is one of them.
    """

    def __init__(
        self, settings: Oauth2Credential, file: PresentedFile | None, key: Secret | None, subject: str
    ) -> None:
        self._settings = settings
        self.file = file
        self._key = key
        self._subject = subject
        self.is_timed = file is not None or key is not None
        if key is not None:
            # imported here: PyJWT and cryptography load slowly, and only keys need them
            import jwt

            from gatepass.config.certificates import certificate_key, signing_key

            # parsed only after a change: an RSA key takes milliseconds, in which no other task runs
            parse = signing_key if settings.certificate_file is None else certificate_key
            self._encode, self._parse = jwt.encode, lru_cache(maxsize=1)(parse)

    def secrets(self) -> tuple[Secret, ...]:
        if self.file is not None:
            return (self.file.mark,)
        return () if self._key is None else (self._key,)

    def read(self, wall_s: float) -> str | None:
        """Return it for a request at `wall_s` (Clock.wall); None without file and key.

        Raises FetchFailure if the current file or key is unusable.
        """
        if self.file is not None:
            return self.file.read()
        if self._key is None:
            return None
        settings = self._settings
        name = "private_key" if settings.certificate_file is None else "certificate_file"
        try:
            key = self._parse(revealed(self._key, name))
        except ValueError as error:
            raise FetchFailure(f"{name} {error}") from None
        # the header by which the issuer finds the public key (RFC 7515 4.1.4)
        headers = {**key.headers, **({} if settings.key_id is None else {"kid": settings.key_id})}
        # RFC 7523 3 allows the token endpoint as audience. FAPI 2.0 requires the issuer.
        signed = claims(settings.client_id, self._subject, settings.issuer or settings.token_url, wall_s)
        return self._encode(signed, key.key, algorithm=key.algorithm, headers=headers)


def key_of(settings: Oauth2Credential) -> Secret | None:
    """Return the PEM text of the key that signs assertions, with its certificate if it is in `certificate_file`."""
    if (path := settings.certificate_file) is None:
        return settings.private_key
    return Secret(lambda: read_file(path).strip())  # read again for each use


class ClientAuthenticator:
    """Authenticates one credential's client."""

    def __init__(self, name: str, settings: Oauth2Credential, clock: Clock) -> None:
        self._settings = settings
        self.secret = settings.client_secret or Secret("")
        path = settings.assertion_file if settings.client_auth == "assertion_file" else None
        file = None if path is None else PresentedFile(name, "assertion_file", path, clock)
        key = key_of(settings) if settings.client_auth == "private_key_jwt" else None
        self.assertion = Assertion(settings, file, key, settings.client_id)

    def secrets(self) -> tuple[Secret, ...]:
        if self.assertion.is_timed or self._settings.client_secret is None:
            return self.assertion.secrets()
        return (self.secret, self.secret.derived(partial(_basic, self._settings.client_id)))

    def proof(self, wall_s: float) -> tuple[Headers, Fields]:
        """Return header and form fields for one request at `wall_s` (Clock.wall).

        Raises FetchFailure if a secret is unreadable.
        """
        settings = self._settings
        named = {"client_id": settings.client_id}
        match settings.client_auth:
            case "basic":
                pair = _basic(settings.client_id, revealed(self.secret, "client_secret"))
                return ((b"authorization", f"Basic {pair}".encode()),), {}
            case "form":
                return (), named | {"client_secret": revealed(self.secret, "client_secret")}
            case "private_key_jwt" | "assertion_file" | "mtls" | "none":
                assertion = self.assertion.read(wall_s)
                if assertion is None:
                    return (), named
                return (), named | {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}


def _basic(client_id: str, secret: str) -> str:
    """Return the Basic credentials. RFC 6749 2.3.1: both parts are form-encoded before they are joined."""
    return basic_credentials(quote_plus(client_id), quote_plus(secret))


class Oauth2Source:
    """Fetches tokens with one grant."""

    def __init__(self, name: str, settings: Oauth2Credential, connect: Connect, clock: Clock) -> None:
        host = host_of(settings.token_url)
        url_setting = f"credentials.{name}.token_url"
        reply_format = TokenReplyFormat(host, settings.default_ttl_s, credential=name, url_setting=url_setting)
        self._settings = settings
        self._clock = clock
        self._issuer = TokenEndpointClient(name, settings, reply_format, connect, clock)
        self._client = ClientAuthenticator(name, settings, clock)
        path = None if settings.grant_type == "client_credentials" else settings.subject_file
        file = None if path is None else PresentedFile(name, "subject_file", path, clock)
        key = key_of(settings) if settings.subject_is_signed else None
        self._subject = Assertion(settings, file, key, settings.subject or "")
        self._secrets = (*self._client.secrets(), *self._subject.secrets(), *secret_fields(settings.extra))

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        wall_s, settings = self._clock.wall(), self._settings
        headers, proof = self._client.proof(wall_s)
        grant = self._grant(wall_s)
        named = {"scope": settings.scope, "audience": settings.audience}
        given = {name: value for name, value in named.items() if value is not None}
        # The operator's own fields come last, because they override.
        form = urlencode({**grant, **proof, **given, **all_revealed(settings.extra, "extra")}).encode()
        request = OutboundRequest("POST", settings.token_url, (*HEADERS, FORM, *headers), form)
        made = (Secret(fields[name]) for fields in (grant, proof) for name in MADE if name in fields)
        reply = await self._issuer.send(request, (*self._secrets, *made))
        try:
            return self._issuer.parse_token(reply)
        except FetchFailure as failure:
            raise self._advised(failure, reply) from None

    def _grant(self, wall_s: float) -> Fields:
        """Return the grant for a request at `wall_s`; raise FetchFailure if the subject cannot be read or signed."""
        presented = self._subject.read(wall_s) or ""
        match self._settings.grant_type:
            case "client_credentials":
                return {"grant_type": "client_credentials"}
            case "jwt_bearer":
                return {"grant_type": JWT_BEARER, "assertion": presented}
            case "token_exchange":
                exchanged = {"subject_token": presented, "subject_token_type": ACCESS_TOKEN}
                return {"grant_type": TOKEN_EXCHANGE, **exchanged}

    def _advised(self, failure: FetchFailure, reply: TimedTokenResponse) -> FetchFailure:
        date_s, document = sent_s(reply.headers), reply.document
        is_token = reply.is_success and not says_failure(document)
        found = None if is_token else issuer_error.error_in(document, reply.mask)
        code = None if found is None else found.code
        shown = self._client.assertion if code == "invalid_client" else self._subject
        ahead_s = 0.0 if date_s is None else date_s - reply.wall_s
        if failure.is_refused and shown.is_timed and abs(ahead_s) >= SKEW_S:
            clock = f"its clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
            # Not definite: the repair of a clock changes no file, so that only another attempt notices it.
            why = f"{failure.why.rstrip('.')}; {clock}"
            return FetchFailure(why, FailureKind.LIMITED, advice=Advice("clocks_differ"))
        is_unknown = (failure.code or reply.status) in ("invalid_client", UNKNOWN_CLIENT) and not failure.advice
        if is_unknown and self._settings.client_auth == "basic":  # it is the default
            failure.advice = Advice("refused_basic", {"credential": self._issuer.name})
        elif code in ("invalid_client", "invalid_grant") and shown.file is not None:
            failure.why = f"{failure.why.rstrip('.')}{shown.file.audience()}"
        return failure
