"""Fetch tokens of `type: oauth2`: send a grant, with the client's proof, to the token endpoint (RFC 6749 4.4).

`ClientAuthenticator` makes the proof (RFC 6749 2.3, RFC 7523, RFC 8705), `Oauth2Source` the grant (also RFC 7523 2.1,
RFC 8693). An `Assertion` is part of either. `Discovery` finds the token endpoint in the issuer's document (OpenID
Connect Discovery 1.0, RFC 8414).
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from gatepass.clock import Clock
from gatepass.config.block import checked_url
from gatepass.config.credential.oauth2 import SPELLINGS, Oauth2Credential
from gatepass.http_client.fault_text import host_of
from gatepass.tokens import issuer_error
from gatepass.tokens.failure import FailureKind, FetchFailure
from gatepass.tokens.issuer_error import REFUSED, TOO_MANY, Mask, TimedTokenResponse, one_line
from gatepass.tokens.lifetime import Token, issuer_time
from gatepass.tokens.secrets import all_revealed, basic_credentials, in_file, revealed, secret_fields
from gatepass.tokens.sources.file import PresentedFile
from gatepass.tokens.token_endpoint import FORM, HEADERS, Connect, TokenEndpointClient
from gatepass.tokens.token_reply import TokenReplyFormat
from gatepass.types import Headers, OutboundRequest, Secret

TTL_S = 3600.0
"""How long a discovery document is used without being read again."""
REREAD_S = 10.0
"""Between two reads while fetches fail. The endpoint may have moved, and an overloaded issuer must not get more
requests."""
_METHOD = re.compile(r"[a-z_]{1,40}\Z")
_METHODS_SHOWN = 8
Fields = Mapping[str, str]
MADE = ("assertion", "subject_token", "client_assertion")
"""Fields of a request that may hold a secret which is not a setting."""


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
    """Return the token endpoint in `document`; raise FetchFailure if it names another issuer (RFC 8414 3.3)."""
    if not isinstance(document, Mapping):
        raise FetchFailure(f"the discovery document of {issuer} is not a JSON object")
    # Compared exactly: RFC 8414 3.3 allows no normalization, not even of a trailing slash.
    if document.get("issuer") != issuer:
        named = one_line(str(document.get("issuer")), mask)
        raise FetchFailure(
            f"the discovery document of {issuer} names another issuer, {named}",
            advice="Set issuer exactly as the document does.",
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
        raise FetchFailure(f"the discovery document of {issuer} contains no token_endpoint")
    try:
        checked_url(url)
    except ValueError as error:
        raise FetchFailure(f"{wrong} {error}") from None
    # A document fetched over TLS must not downgrade the request that carries the secret.
    if urlsplit(url).scheme == "http" and (mtls or urlsplit(issuer).scheme == "https"):
        raise FetchFailure(f"{wrong} is plain HTTP: no secret is sent there")
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
            reply = await self._issuer.send(OutboundRequest("GET", url, HEADERS), (), by_s)
            document = reply.document if reply.is_success else None
            if document is not None:
                is_mtls = self._settings.client_auth == "mtls"
                return endpoint_in(document, self._name, reply.mask, mtls=is_mtls)
            responses.append(reply)
        reply = responses[0]
        if reply.is_success:
            raise FetchFailure(f"the discovery document of {self._name} is not JSON")
        failure = issuer_error.error_response_failure(reply, self._issuer.reply_format.issuer)
        words = failure.reason.removeprefix(REFUSED)
        raise FetchFailure(
            f"no discovery document of {self._name}: {words}",
            FailureKind.LIMITED if reply.status == TOO_MANY else FailureKind.OUTAGE,
            retry_after_s=failure.retry_after_s,
        )


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

    def read(self, token_url: str, wall_s: float) -> str | None:
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
        signed = claims(settings.client_id, self._subject, settings.issuer or token_url, wall_s)
        return self._encode(signed, key.key, algorithm=key.algorithm, headers=headers)


def key_of(settings: Oauth2Credential) -> Secret | None:
    """Return the PEM text of the key that signs assertions, with its certificate if it is in `certificate_file`."""
    return settings.private_key if settings.certificate_file is None else in_file(settings.certificate_file)


class ClientAuthenticator:
    """Authenticates one credential's client."""

    def __init__(self, name: str, settings: Oauth2Credential, clock: Clock) -> None:
        self._settings = settings
        self._secret = settings.client_secret or Secret("")
        path = settings.assertion_file
        file = None if path is None else PresentedFile(name, "assertion_file", path, clock)
        key = key_of(settings) if settings.client_auth == "private_key_jwt" else None
        self.assertion = Assertion(settings, file, key, settings.client_id)

    def secrets(self) -> tuple[Secret, ...]:
        if self.assertion.is_timed or self._settings.client_secret is None:
            return self.assertion.secrets()
        return (self._secret, self._secret.derived(partial(_basic, self._settings.client_id)))

    def proof(self, token_url: str, wall_s: float) -> tuple[Headers, Fields]:
        """Return header and form fields for one request at `wall_s` (Clock.wall).

        Raises FetchFailure if a secret is unreadable.
        """
        settings = self._settings
        named = {"client_id": settings.client_id}
        match settings.client_auth:
            case "basic":
                pair = _basic(settings.client_id, revealed(self._secret, "client_secret"))
                return ((b"authorization", f"Basic {pair}".encode()),), {}
            case "form":
                return (), named | {"client_secret": revealed(self._secret, "client_secret")}
            case "private_key_jwt" | "assertion_file" | "mtls" | "none":
                assertion = self.assertion.read(token_url, wall_s)
                if assertion is None:
                    return (), named
                return (), named | {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}


def _basic(client_id: str, secret: str) -> str:
    """Return the Basic credentials. RFC 6749 2.3.1: both parts are form-encoded before they are joined."""
    return basic_credentials(quote_plus(client_id), quote_plus(secret))


class Oauth2Source:
    """Fetches tokens with one grant."""

    def __init__(self, name: str, settings: Oauth2Credential, connect: Connect, clock: Clock) -> None:
        is_exchange = settings.grant_type == "token_exchange"
        reply_format = TokenReplyFormat(
            host_of(settings.endpoint),
            settings.default_ttl_s,
            credential=name,
            url_setting="token_url" if settings.issuer is None else None,
            audience=settings.audience,
            # an operator who requests another type receives what the issuer returns
            issued_type=ACCESS_TOKEN if is_exchange and "requested_token_type" not in settings.extra else None,
        )
        self._settings = settings
        self._clock = clock
        self._issuer = TokenEndpointClient(name, settings, reply_format, connect, clock)
        self._client = ClientAuthenticator(name, settings, clock)
        self._discovery = Discovery(settings, self._issuer, clock) if settings.issuer is not None else None
        path = settings.subject_file
        file = None if path is None else PresentedFile(name, "subject_file", path, clock)
        key = None if settings.subject is None else key_of(settings)
        self._subject = Assertion(settings, file, key, settings.subject or "")
        self._secrets = (*self._client.secrets(), *self._subject.secrets(), *secret_fields(settings.extra))

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        """Return a new token; raise FetchFailure. `timeout_s` bounds all steps together."""
        by_s = self._clock.now() + self._settings.timeout_s
        if self._discovery is None:
            return await self._mint(Endpoint(self._settings.endpoint), by_s)
        endpoint = await self._discovery.endpoint(by_s)
        try:
            return await self._mint(endpoint, by_s)
        except FetchFailure:
            self._discovery.expire_soon()
            raise

    async def _mint(self, endpoint: Endpoint, by_s: float) -> Token:
        wall_s, settings = self._clock.wall(), self._settings
        headers, proof = self._client.proof(endpoint.token_url, wall_s)
        grant = self._grant(endpoint.token_url, wall_s)
        named = {"scope": settings.scope, "audience": settings.audience}
        given = {name: value for name, value in named.items() if value is not None}
        # The operator's own fields come last, because they override.
        form = urlencode({**grant, **proof, **given, **all_revealed(settings.extra, "extra")}).encode()
        request = OutboundRequest("POST", endpoint.token_url, (*HEADERS, FORM, *headers), form)
        made = (Secret(fields[name]) for fields in (grant, proof) for name in MADE if name in fields)
        reply_format = replace(self._issuer.reply_format, issuer=host_of(endpoint.token_url))
        issuer = replace(self._issuer, reply_format=reply_format)
        reply = await issuer.send(request, (*self._secrets, *made), by_s)
        try:
            return issuer.parse_token(reply)
        except FetchFailure as failure:
            raise self._advised(failure, reply, endpoint) from None

    def _grant(self, token_url: str, wall_s: float) -> Fields:
        """Return the grant for a request at `wall_s`; raise FetchFailure if the subject cannot be read or signed."""
        presented = self._subject.read(token_url, wall_s) or ""
        match self._settings.grant_type:
            case "client_credentials":
                return {"grant_type": "client_credentials"}
            case "jwt_bearer":
                return {"grant_type": JWT_BEARER, "assertion": presented}
            case "token_exchange":
                exchanged = {"subject_token": presented, "subject_token_type": ACCESS_TOKEN}
                return {"grant_type": TOKEN_EXCHANGE, **exchanged}

    def _advised(self, failure: FetchFailure, reply: TimedTokenResponse, endpoint: Endpoint) -> FetchFailure:
        date_s, code, own = issuer_time(reply.headers), _code_of(reply), self._settings.client_auth
        shown = self._client.assertion if code == "invalid_client" else self._subject
        ahead_s = 0.0 if date_s is None else date_s - reply.wall_s
        if failure.is_refused and shown.is_timed and abs(ahead_s) >= SKEW_S:
            clock = f"its clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
            # Not definite: the repair of a clock changes no file, so that only another attempt notices it.
            why = f"{failure.why.rstrip('.')}; {clock}"
            return FetchFailure(why, FailureKind.LIMITED, advice="Check both clocks.")
        supported = [SPELLINGS.get(method, method) for method in endpoint.methods]
        if code == "invalid_client" and supported and own not in (*supported, "assertion_file"):
            more = f"client_auth is {own}, and the issuer supports {', '.join(dict.fromkeys(supported))}"
        elif code == "invalid_client" and not supported and own == "basic":  # it is the default
            more = "client_auth is basic, and some issuers accept only form"
        elif code in ("invalid_client", "invalid_grant") and shown.file is not None:
            more = shown.file.audience()
        else:
            return failure
        failure.why = f"{failure.why.rstrip('.')}; {more}" if more else failure.why
        return failure


def _code_of(reply: TimedTokenResponse) -> str | None:
    """Return the `error` of a refusal; None for a reply with a token or without a code."""
    document = reply.document
    if reply.is_success and not issuer_error.is_error_reply(document):
        return None
    found = issuer_error.token_error_body(document)
    return found.code if found is not None else None
