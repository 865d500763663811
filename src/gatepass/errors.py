"""The tree of errors: every way that a request can fail, with a stable code and the hop that failed.

::

    GatepassError
    ├── CallerError                 hop "client": the caller can fix it
    │   ├── InvalidApiKey           401 invalid_api_key
    │   ├── ForbiddenHost           403 forbidden_host
    │   ├── ForbiddenOrigin         403 forbidden_origin
    │   ├── ForbiddenPeer           403 forbidden_peer
    │   ├── ModelNotAllowed         403 model_not_allowed
    │   ├── RoleNotAllowed          403 role_not_allowed
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

    TransportFault                  raised by the HTTP client; each hop converts it into its own error
    ClientGone                      the client disconnected, so no error can be sent
"""

from __future__ import annotations

import os
import re
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
"""Values of an upstream error's `code` or `type`, in lower case. The account or the request itself is the cause,
so neither a retry nor a changed request helps."""


class GatepassError(Exception):
    """Base class of all errors that a client can receive.

    - `message`: what failed and what to do. It is sent to clients, so it never contains a secret.
    - `code`: stable, with a heading in docs/errors.md.
    - `status`: the HTTP status, if the response has not started.
    - `retryable`: whether the same request can succeed later. A 5xx that is not retryable is sent with
      `x-should-retry: false`.
    - `hop`: the part that failed.
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
        """Response headers of the upstream that are relayed with this error, such as x-ratelimit-*."""
        self.should_retry: bool | None = None
        """The value of `x-should-retry` in the upstream's reply; None if it was absent."""

    @property
    def http_status(self) -> int:
        """The status of the error response."""
        return self.status

    @property
    def public_code(self) -> str:
        """The code in the error response."""
        return self.code


class CallerError(GatepassError):
    """The request is invalid or not permitted; nothing was sent to an upstream."""

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


class RoleNotAllowed(CallerError):
    code, status = "role_not_allowed", 403


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
    """The token source returned no valid token. The message contains the issuer's reason without secrets."""

    code, status, retryable = "token_unavailable", 503, True

    def __init__(self, message: str, *, credential: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, hop=f"credential:{credential}", retry_after_s=retry_after_s)


class UpstreamError(GatepassError):
    """The upstream, or the connection to it, failed. `sent` is False if no byte of the request was written."""

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
    """The upstream answered with a redirect.

    `target` is used for classification only. It may contain a session, so it is neither logged nor sent to the client.
    """

    code, retryable = "upstream_redirect", False

    def __init__(self, message: str, *, upstream: str, target: str | None = None) -> None:
        super().__init__(message, upstream=upstream)
        self.target = target


class UpstreamTimeout(UpstreamError):
    """A timeout of the upstream passed; `phase` is one of connect, first_byte, idle, total."""

    code, status = "upstream_timeout", 504

    def __init__(self, message: str, *, upstream: str, phase: str, sent: bool = True) -> None:
        super().__init__(message, upstream=upstream, sent=sent)
        self.phase = phase

    @property
    def public_code(self) -> str:
        return f"{self.code}_{self.phase}"


class UpstreamErrorReply(UpstreamError):
    """The upstream's own error, relayed with its status and message.

    `kind`, `upstream_code` and `param` are the upstream's `type`, `code` and `param`. `raw` is its error object, size
    limited, if it has other members. `error_body` is the UpstreamErrorBody before gatepass added to its message; rules
    are learned from it.
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
    """The upstream rejects even a new token, so a client's retry cannot succeed."""

    code, retryable = "upstream_auth", False

    @property
    def public_code(self) -> str:
        return self.code


class Fault(StrEnum):
    """The kind of a connection failure, independent of the hop."""

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


def system_reason(error: OSError) -> str:
    """Return the system's text of `error`, such as `connection refused`, without numbers and addresses."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    # an ssl.SSLError, whose numbers are those of OpenSSL; ssl is not imported here, because it loads slowly
    if tls_reason := getattr(error, "verify_message", None) or getattr(error, "reason", None):
        return str(tls_reason).replace("_", " ").lower()
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    # asyncio joins the errors of several addresses in one text; those of getaddrinfo have numbers of their own
    numbers = map(int, re.findall(r"\[Errno ([0-9]+)\]", str(error)))
    return ", ".join(dict.fromkeys(map(os.strerror, numbers))).lower() or (error.strerror or str(error)).lower()


class TransportFault(Exception):
    """A connection failure, raised by the HTTP client.

    `sent`: a byte of the request may have been written. `stale`: a reused connection closed without a byte of a reply,
    so the server most likely never read the request. RFC 9112 (section 9.3.1) leaves the retry to the client.
    `limit_s`: the timeout that passed, if it is one.
    """

    def __init__(
        self, fault: Fault, detail: str, *, sent: bool = True, stale: bool = False, limit_s: float | None = None
    ) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault
        self.detail = detail
        self.sent = sent
        self.stale = stale
        self.limit_s = limit_s


class ClientGone(Exception):
    """The client closed its connection, so the work for its request is cancelled."""
