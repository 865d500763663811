"""One tree of errors: every way a request can fail, with a stable code and the hop that failed.

::

    GatepassError
    ├── CallerError                 hop "client": the caller can mend it
    │   ├── InvalidApiKey           401 invalid_api_key
    │   ├── ForbiddenHost           403 forbidden_host
    │   ├── ForbiddenOrigin         403 forbidden_origin
    │   ├── ForbiddenPeer           403 forbidden_peer
    │   ├── ModelNotAllowed         403 model_not_allowed
    │   ├── ModelNotFound           404 model_not_found
    │   ├── UnknownPath             404 unknown_path
    │   ├── MethodNotAllowed        405 method_not_allowed
    │   ├── ReceiveTimeout          408 receive_timeout
    │   ├── InvalidJson             400 invalid_json
    │   ├── InvalidRequest          400 invalid_request
    │   ├── InvalidImage            400 invalid_image
    │   ├── BodyTooLarge            413 body_too_large
    │   ├── BodyTooComplex          413 body_too_complex
    │   ├── UnsupportedEncoding     415 unsupported_encoding
    │   ├── UnsupportedMediaType    415 unsupported_media_type
    │   ├── HeadTooLarge            431 head_too_large
    │   ├── UnsupportedTransferCoding  501 unsupported_transfer_coding
    │   └── UnsupportedVersion      505 unsupported_version
    ├── GatewayError                hop "gatepass": this process
    │   ├── Overloaded              503 overloaded
    │   ├── ConcurrencyLimited      429 concurrency_limited
    │   ├── Draining                503 draining
    │   ├── NotStarted              500 not_started
    │   └── InternalError           500 internal_error
    ├── TokenUnavailable            503 token_unavailable, hop "credential:NAME"
    └── UpstreamError               hop "upstream:NAME"
        ├── UpstreamConnect         502 upstream_connect
        ├── UpstreamDns             502 upstream_dns
        ├── UpstreamTls             502 upstream_tls
        ├── UpstreamClosed          502 upstream_closed
        ├── UpstreamInvalid         502 upstream_invalid
        ├── UpstreamHtml            502 upstream_html
        ├── UpstreamEmpty           502 upstream_empty
        ├── UpstreamRedirect        502 upstream_redirect
        ├── UpstreamTimeout         504 upstream_timeout_{connect,first_byte,idle,total}
        ├── UpstreamAuth            the upstream's status, upstream_auth
        └── UpstreamErrorReply         the upstream's status, its own code and text

    TransportFault                  what the HTTP client raises; each hop turns it into its own error
    ClientGone                      the client left: nobody is there to be told
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

OVER_QUOTA = frozenset(("insufficient_quota", "insufficient_user_quota"))

TOO_LONG = frozenset(("context_length_exceeded", "exceed_context_size_error", "contextwindowexceedederror"))

REFUSED_CONTENT = frozenset(
    (
        *("content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed"),
        *("invalid_prompt", "moderation_blocked"),
    )
)

FINAL_CODES = OVER_QUOTA | TOO_LONG | REFUSED_CONTENT
"""As an error's `code` or `type`, in lower case: the account or the request itself is at fault, so that neither a
repeat nor another form of it helps."""


class GatepassError(Exception):
    """A failure with an address: what happened, what to do, and where on the way it happened.

    `message` is written for the person who meets it. It goes out to clients, so it never holds
    a secret. `code` is stable and has a heading in docs/errors.md. `status` is the HTTP status
    while the response has not started. `retryable` tells a client whether the same request can
    succeed later; it becomes `x-should-retry: false` where it is False for a 5xx.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hop: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hop = hop
        self.param = param
        self.retry_after_s = retry_after_s
        self.relayed: tuple[tuple[bytes, bytes], ...] = ()
        """Response headers of the upstream that go to the client with this error, such as x-ratelimit-*."""
        self.should_retry: bool | None = None
        """What `x-should-retry` of the reply said about a repeat; None if it said nothing."""

    @property
    def http_status(self) -> int:
        """The status of the response that tells of this error."""
        return self.status

    @property
    def public_code(self) -> str:
        """The code that a client sees: stable, documented."""
        return self.code


class CallerError(GatepassError):
    """The caller sent what cannot be served; nothing went upstream."""

    status = 400

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, hop="client", param=param, retry_after_s=retry_after_s)


class InvalidApiKey(CallerError):
    code, status = "invalid_api_key", 401


class ForbiddenHost(CallerError):
    code, status = "forbidden_host", 403


class ForbiddenOrigin(CallerError):
    code, status = "forbidden_origin", 403


class ForbiddenPeer(CallerError):
    code, status = "forbidden_peer", 403


class ModelNotAllowed(CallerError):
    code, status = "model_not_allowed", 403


class ModelNotFound(CallerError):
    code, status = "model_not_found", 404


class UnknownPath(CallerError):
    code, status = "unknown_path", 404


class MethodNotAllowed(CallerError):
    code, status = "method_not_allowed", 405

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class ReceiveTimeout(CallerError):
    code, status, retryable = "receive_timeout", 408, True


class InvalidJson(CallerError):
    code = "invalid_json"


class InvalidRequest(CallerError):
    code = "invalid_request"


class InvalidImage(CallerError):
    code = "invalid_image"


class BodyTooLarge(CallerError):
    code, status = "body_too_large", 413


class BodyTooComplex(CallerError):
    code, status = "body_too_complex", 413


class UnsupportedEncoding(CallerError):
    code, status = "unsupported_encoding", 415


class UnsupportedMediaType(CallerError):
    code, status = "unsupported_media_type", 415


class HeadTooLarge(CallerError):
    code, status = "head_too_large", 431


class UnsupportedTransferCoding(CallerError):
    code, status = "unsupported_transfer_coding", 501


class UnsupportedVersion(CallerError):
    code, status = "unsupported_version", 505


class GatewayError(GatepassError):
    """This process cannot serve the request now."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, hop="gatepass", retry_after_s=retry_after_s)


class Overloaded(GatewayError):
    code, status, retryable = "overloaded", 503, True


class ConcurrencyLimited(GatewayError):
    code, status, retryable = "concurrency_limited", 429, True


class Draining(GatewayError):
    code, status, retryable = "draining", 503, True


class NotStarted(GatewayError):
    code, status = "not_started", 500


class InternalError(GatewayError):
    code, status = "internal_error", 500


class TokenUnavailable(GatepassError):
    """No valid token can be had: the issuer's own reason is in the message, secrets removed."""

    code, status, retryable = "token_unavailable", 503, True

    def __init__(self, message: str, *, credential: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, hop=f"credential:{credential}", retry_after_s=retry_after_s)


class UpstreamError(GatepassError):
    """The second hop failed. `sent` is False when not one byte of the request was written."""

    status, retryable = 502, True

    def __init__(
        self,
        message: str,
        *,
        upstream: str,
        sent: bool = True,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hop=f"upstream:{upstream}", param=param, retry_after_s=retry_after_s)
        self.sent = sent


class UpstreamConnect(UpstreamError):
    code = "upstream_connect"


class UpstreamDns(UpstreamError):
    code = "upstream_dns"


class UpstreamTls(UpstreamError):
    code = "upstream_tls"


class UpstreamClosed(UpstreamError):
    code = "upstream_closed"


class UpstreamInvalid(UpstreamError):
    code, retryable = "upstream_invalid", False


class UpstreamHtml(UpstreamError):
    code, retryable = "upstream_html", False


class UpstreamEmpty(UpstreamError):
    code = "upstream_empty"


class UpstreamRedirect(UpstreamError):
    """`target` is where it led, for judging alone: it may hold a session, and nobody is told of it."""

    code, retryable = "upstream_redirect", False

    def __init__(self, message: str, *, upstream: str, target: str | None = None) -> None:
        super().__init__(message, upstream=upstream)
        self.target = target


class UpstreamTimeout(UpstreamError):
    """`phase` is one of connect, first_byte, idle, total."""

    code, status = "upstream_timeout", 504

    def __init__(self, message: str, *, upstream: str, phase: str, sent: bool = True) -> None:
        super().__init__(message, upstream=upstream, sent=sent)
        self.phase = phase

    @property
    def public_code(self) -> str:
        return f"{self.code}_{self.phase}"


class UpstreamErrorReply(UpstreamError):
    """The upstream's own error, with its status, its text and what else it said of it.

    `fields` are the members of the client-visible error object that the upstream chose (`type`,
    `param`, `code`), `raw` what it said in a shape of its own, size-capped. `error_body` is the Complaint that
    it was read from, before anything was added to its words: what lessons are learned from.
    """

    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        upstream: str,
        status: int,
        kind: str | None = None,
        upstream_code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        raw: Any = None,
        error_body: Any = None,
    ) -> None:
        super().__init__(message, upstream=upstream, param=param, retry_after_s=retry_after_s)
        self.error_body = error_body
        self.upstream_status = status
        self.kind = kind
        self.upstream_code = upstream_code
        self.raw = raw

    @property
    def http_status(self) -> int:
        return self.upstream_status

    @property
    def public_code(self) -> str:
        return self.upstream_code or self.code


class UpstreamAuth(UpstreamErrorReply):
    """The upstream refuses our token even when it is new: a client's retry cannot mend it."""

    code, retryable = "upstream_auth", False

    @property
    def public_code(self) -> str:
        return self.code


class Fault(StrEnum):
    """What went wrong on a connection, before anybody knows whose hop it is."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    PROXY = "proxy"
    CLOSED = "closed"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_BYTE = "timeout_first_byte"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_POOL = "timeout_pool"


class TransportFault(Exception):
    """Raised by the HTTP client. `sent`: a byte of the request may have been written.

    `stale`: the connection was a reused one and closed without one byte of answer, so the
    server most likely never read the request (RFC 9112 9.3.1 leaves a repeat to the client).
    """

    def __init__(self, fault: Fault, detail: str, *, sent: bool = True, stale: bool = False) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.detail = detail
        self.sent = sent
        self.stale = stale


class ClientGone(Exception):
    """The client closed its connection; whatever works for it stops."""
