"""Run one fetch through a vendor's library, and send the library's requests with gatepass's HTTP client."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from gatepass.cancel import timeout
from gatepass.clock import Clock
from gatepass.config.credential.base import Credential
from gatepass.http_client.fault_text import host_of
from gatepass.tokens.failure import FetchFailure, setting
from gatepass.tokens.issuer_error import TimedTokenResponse, one_line
from gatepass.tokens.lifetime import JWT_MARGIN_S, LifetimeSource, Token, jwt_lifetime_s, token_kind
from gatepass.tokens.secrets import mask_of
from gatepass.tokens.token_endpoint import HEADERS, Connect, TokenEndpointClient
from gatepass.tokens.token_reply import TokenReplyFormat, checked_token
from gatepass.types import OutboundRequest, Secret, header

T = TypeVar("T")

GRACE_S = 0.2
"""Added to `timeout_s`, so that a request which reaches it ends with its own error, which names the host."""
LIBRARY_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError)
"""Errors that libraries raise for an unexpected file or reply, in addition to their own error classes."""
_OURS = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding"))
_PROOF_HEADERS = frozenset(("authorization", "x-identity-header", "secret", "x-amz-security-token"))
_PROOF_FIELDS = frozenset(
    ("client_secret", "client_assertion", "assertion", "refresh_token", "subject_token", "WebIdentityToken")
)


@dataclass(frozen=True, slots=True)
class VendorEndpoints:
    """The HTTP access to one credential's issuers.

    `metadata` allows plain HTTP to a server that issues the machine's own identity: at a link-local address, or at
    one of these names.
    """

    name: str
    settings: Credential
    connect: Connect
    clock: Clock
    metadata: frozenset[str] | None = None


@dataclass(slots=True)
class VendorFetch:
    """One fetch, with `timeout_s` for all its requests. `library` is the name of the vendor's library in messages.

    The first failure and the last reply are kept. The library's own text for them contains less, or quotes a secret.
    """

    endpoints: VendorEndpoints
    library: str
    secrets: tuple[Secret, ...]
    requested_s: float = field(init=False)
    wall_s: float = field(init=False)
    failure: FetchFailure | None = field(default=None, init=False)
    _last_reply: tuple[TokenEndpointClient, TimedTokenResponse] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.requested_s, self.wall_s = self.endpoints.clock.now(), self.endpoints.clock.wall()

    async def run(self, work: Awaitable[T]) -> T:
        """Await `work` within the time limit; raise FetchFailure after it."""
        limit_s = self.endpoints.settings.timeout_s
        its_setting = setting(self.endpoints.name, "timeout_s")
        late = FetchFailure(f"{self.library} returned no token within {limit_s:g} s ({its_setting})")
        return await timeout(self.endpoints.clock, limit_s + GRACE_S, work, late)

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> TimedTokenResponse:
        """Return the complete reply, with any status. Raises FetchFailure if no reply arrives."""
        # The secrets of this request, so that a reply that echoes them can be masked.
        fields_with_proof = parse_qsl(body.decode("utf-8", "replace"))
        self.secrets = (
            *self.secrets,
            *(
                Secret(str(value).rpartition(" ")[2])
                for name, value in headers.items()
                if name.lower() in _PROOF_HEADERS
            ),
            *(Secret(value) for name, value in fields_with_proof if name in _PROOF_FIELDS),
        )
        endpoints, settings = self.endpoints, self.endpoints.settings
        # Through a proxy the address is that of the proxy's own metadata server.
        may_be_metadata = method == "GET" and not body and settings.network.proxy is None
        if may_be_metadata and endpoints.metadata is not None:
            host = urlsplit(url).hostname or ""
            with suppress(ValueError):  # another name
                # a link-local address is this machine's host or its neighbour
                if host in endpoints.metadata or ip_address(host).is_link_local:
                    settings = settings.model_copy(update={"allow_plain_http": True})
        reply_format = TokenReplyFormat(host_of(url), settings.default_ttl_s, settings.max_ttl_s)
        issuer = TokenEndpointClient(endpoints.name, settings, reply_format, endpoints.connect, endpoints.clock)
        library_fields = {name.lower().encode(): str(value).encode() for name, value in headers.items()}
        fields = dict(HEADERS) | {name: value for name, value in library_fields.items() if name not in _OURS}
        request = OutboundRequest(method, url, tuple(fields.items()), body)
        self._last_reply = None  # a failure must not be explained by an earlier reply
        try:
            reply = await issuer.send(request, self.secrets, self.requested_s + self.endpoints.settings.timeout_s)
        except FetchFailure as failure:
            self.failure = self.failure or failure
            raise
        self._last_reply = (issuer, reply)
        return reply

    def token_from_response(self) -> Token:
        """Return the token in the last reply; raise FetchFailure with the issuer's text if it contains none."""
        if self._last_reply is None:
            raise self.failure or FetchFailure(f"{self.library} sent no request")
        issuer, reply = self._last_reply
        return issuer.parse_token(reply)

    def token_from_text(self, text: object, expires_s: float | None) -> Token:
        """Return the token `text` from the library, which ends at `expires_s` (seconds since the epoch).

        Raises FetchFailure if it is not a token, because libraries pass on any content of a reply. If the last reply
        contains it, its lifetime is parsed as for any issuer. The library's expiry can only shorten it, because
        metadata servers return tokens that they issued long ago.
        """
        if not isinstance(text, str):
            raise self.failure_for("no token")
        text = checked_token(text, self.library)
        token = self._from_last_reply(text)
        if token is None:  # the library signed it on this machine
            own_s, default_s = jwt_lifetime_s(text, None, self.wall_s), self.endpoints.settings.default_ttl_s
            lifetime_s = default_s if own_s is None else own_s
            source = LifetimeSource.DEFAULT if own_s is None else LifetimeSource.JWT
            token = Token(Secret(text), self.requested_s, lifetime_s, token_kind(text), source)
        wall_s = self._last_reply[1].wall_s if self._last_reply else self.wall_s
        left_s = 0.0 if expires_s is None else expires_s - wall_s
        shorter = 0 < left_s < (token.lifetime_s or 0) - JWT_MARGIN_S  # libraries round fractions down
        return replace(token, lifetime_s=left_s) if shorter else token

    def failure_for(self, words: str) -> FetchFailure:
        """Return why the fetch failed: the transport's failure, else the issuer's text, else the library's `words`."""
        if self.failure is not None:
            return self.failure
        own = f"{self.library}: {one_line(words, mask_of(self.secrets))}"
        if self._last_reply is None:
            return FetchFailure(own)
        issuer, reply = self._last_reply
        try:
            issuer.parse_token(reply)
        except FetchFailure as failure:
            challenged = reply.status == 401 and header(reply.headers, b"www-authenticate")
            return failure.with_reason(f"{failure.reason} ({own})") if challenged else failure
        return FetchFailure(f"{self.library} cannot use the answer of {issuer.reply_format.issuer}")

    def _from_last_reply(self, text: str) -> Token | None:
        try:
            token = self.token_from_response()
        except FetchFailure as failure:
            if failure.is_refused and self._last_reply is not None and text in self._last_reply[1].text:
                raise  # a library may return a token that cannot be sent as bearer token
            return None
        return token if token.text == text else None
