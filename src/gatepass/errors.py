"""The tree of errors: every way that a request can fail, with a stable code and the hop that failed.

errors.json explains each code, and the cases of some, in English and Chinese: what it means and what to do. The line
that raises an error names the case. docs/reference/errors.md lists all of them, by the hop that failed:

- CallerError, hop `client`: the caller can fix it.
- GatewayError, hop `gatepass`: this process.
- TokenUnavailable, hop `credential:NAME`.
- UpstreamError, hop `upstream:NAME`. UpstreamErrorReply has the upstream's own status, code and text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict, Unpack


@dataclass(frozen=True, slots=True)
class Explanation:
    """An entry of errors.json: what a code, or a case `of` a code, means and what to do. `more` is for pages.

    Those `of` doctor are what it found. Those `of` a hint have the sentence of their code (`dialects/hints.py`). Those
    `of` a part stand in place of a placeholder of their name. `config.advice` fills the placeholders.
    """

    sentence: str = ""
    sentence_zh: str = ""
    action: str = ""
    action_zh: str = ""
    more: str = ""
    more_zh: str = ""
    details_zh: str = ""
    of: str = ""
    advice: str = ""
    """The action in the error message, if that is a shorter one."""
    setting: str = ""
    """What stands for `{setting}` if the error names none."""
    example: str = ""
    """A message, for docs/reference/errors.md."""


@cache
def explanations() -> Mapping[str, Explanation]:
    """Return the entries of errors.json by code and by case. The first error reads the file, not the start."""
    import msgspec  # `gatepass healthcheck` imports this module without it

    file = Path(__file__).with_name("errors.json")
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Explanation])


def documentation(page: str, sentence: str = "{}") -> str:
    """Return `sentence` with the address of a page such as `docs/mcp.md`.

    Returns "" if the package names no address: an installation has no folder docs.
    """
    # imported here, because only advice needs it
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        links = metadata("gatepass").get_all("Project-URL") or ()
    except PackageNotFoundError:
        links = ()
    address = next((link.partition(", ")[2] for link in links if link.startswith("Documentation, ")), "")
    return sentence.format(address.removesuffix("docs/index.md") + page) if address else ""


def retired(*names: str) -> str:
    """Return what to do in place of the first of `names` that an earlier version had, "" if none had any.

    A name is a setting with its path, a setting with a value, a variable, a command or an option.
    """
    rows = json.loads(Path(__file__).with_name("retired.json").read_text(encoding="utf-8"))
    for name in names:
        for pattern, said in ((pattern, row["en"]) for row in rows for pattern in row["names"]):
            written = re.escape(pattern).replace("NAME", ".+").replace(r"\*", ".*")
            if re.fullmatch(rf"(.+\.)?{written}", name):
                return re.sub("docs/[^ ]+[^ .]", lambda page: documentation(page[0]) or page[0], said)
    return ""


def sentence(text: str) -> str:
    """Return `text` with a full stop at its end, a Chinese one behind a Chinese character."""
    if text.endswith((".", "!", "?", "…", "。", "！", "？")):
        return text
    return f"{text}。" if "\u4e00" <= text[-1:] <= "\u9fff" else f"{text}."


class Said(TypedDict, total=False):
    """What the line that raises an error may give besides its message (`GatepassError`)."""

    advice: str
    param: str | None
    retry_after_s: float | None
    case: str
    setting: str
    names: Mapping[str, str]


class GatepassError(Exception):
    """Base class of all errors that a client can receive.

    - `cause`: what failed; `advice`: one action, or "". Clients receive both, so they never contain a secret.
    - `code`: stable. errors.json explains it.
    - `status`: the HTTP status, if the response has not started. `http_status` may be the upstream's instead.
    - `retryable`: whether the same request can succeed later. An error that is not retryable is sent with
      `x-should-retry: false`.
    - `hop`: the part that failed. Each kind of error sets it.
    - `case`: the entry of errors.json that explains it, "" for that of its code.
    - `setting`: the path of what the operator may change, or several with commas. It replaces that of errors.json.
    - `names`: the values of other placeholders of that entry.
    """

    code: str = "internal_error"
    status: int = 500
    retryable: ClassVar[bool] = False
    is_answer: bool = False
    """The client expects it, so that it counts as no error."""

    hop: str

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
        case: str = "",
        setting: str = "",
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.cause, self.advice, self.http_status = message, advice, self.status
        self.case, self.setting, self.names = case, setting, names
        self.param, self.retry_after_s = param, retry_after_s
        self.relayed: tuple[tuple[bytes, bytes], ...] = ()
        """Response headers of the upstream that are relayed with this error, such as x-ratelimit-*."""
        self.is_told = False
        """The client has received it: an event of the upstream states it."""
        self.should_retry: bool | None = None
        """Whether a retry can succeed, if the upstream's `x-should-retry` or the cause says so; else None."""
        self.trace_id = ""
        """The trace of the request that received it, "" without `tracing`."""
        self.detail = ""
        """What only an operator reads of the upstream's text: its page or stack trace. Nothing is decided by it."""

    @property
    def whole_cause(self) -> str:
        return f"{sentence(self.cause)} {self.detail}" if self.detail else self.cause

    @property
    def message(self) -> str:
        """The text for the client: what failed and what to do."""
        return f"{sentence(self.cause)} {self.advice}" if self.advice else self.cause

    @property
    def public_code(self) -> str:
        """The code in the error response."""
        return self.code

    @property
    def stable_code(self) -> str:
        """A code of docs/reference/errors.md: a closed set, in which an upstream's own code is `upstream_error`."""
        return self.public_code


class CallerError(GatepassError):
    """The request is invalid or not permitted; nothing was sent to an upstream."""

    status, hop = 400, "client"


class CodedError(GatepassError):
    """Base of errors that differ in their code alone. `statuses` has the status of each code."""

    statuses: ClassVar[Mapping[str, int]] = {}

    def __init__(self, code: str, message: str, **said: Unpack[Said]) -> None:
        self.code, self.status = code, self.statuses[code]
        super().__init__(message, **said)


class NotAllowed(CodedError, CallerError):
    """The key, its role or the address of the client does not allow the request."""

    statuses: ClassVar[Mapping[str, int]] = {
        "forbidden_peer": 403,
        "model_not_allowed": 403,
        "operation_not_allowed": 403,
        "role_not_allowed": 403,
        "mcp_server_not_allowed": 403,
        "no_caller_row": 403,
    }


class UnsupportedHead(CodedError, CallerError):
    """gatepass does not read a request with this head, or a connection that begins so."""

    statuses: ClassVar[Mapping[str, int]] = {
        "unsupported_upgrade": 426,
        "plain_http": 400,
        "tls_handshake_failed": 400,
        "unsupported_encoding": 415,
        "unsupported_media_type": 415,
        "head_too_large": 431,
        "unsupported_transfer_coding": 501,
        "unsupported_version": 505,
    }


class InvalidApiKey(CallerError):
    code, status = "invalid_api_key", 401


class InvalidToken(InvalidApiKey):
    """A JWT of a caller that gatepass does not accept (RFC 6750 3.1). Agents sign in again after a 401 alone."""

    code, retryable = "invalid_token", True  # Claude Code 2.1.113 fetches no new token without a retry


class ForbiddenHost(CallerError):
    code, status = "forbidden_host", 403


class ForbiddenOrigin(CallerError):
    code, status = "forbidden_origin", 403


class McpNotAllowed(CallerError):
    code, status = "mcp_not_allowed", 403


class McpSessionNotFound(CallerError):
    code, status = "mcp_session_not_found", 404


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


class GatewayError(GatepassError):
    """This process cannot serve the request."""

    hop = "gatepass"


class Overloaded(GatewayError):
    code, status, retryable = "overloaded", 503, True


class KeySetUnavailable(GatewayError):
    """The keys of an issuer of callers' tokens are not known, so that a token may be good."""

    code, status, retryable = "key_set_unavailable", 503, True


class Limited(CodedError, GatewayError):
    """A limit is reached: that of a caller, a group, a model or an upstream, or those of all targets."""

    statuses: ClassVar[Mapping[str, int]] = {"concurrency_limited": 429, "limit_reached": 429, "targets_limited": 429}
    retryable = True


class McpSessionsUnavailable(GatewayError):
    code, status, retryable = "mcp_sessions_unavailable", 503, True


class Draining(GatewayError):
    code, status, retryable = "draining", 503, True


class NotStarted(GatewayError):
    code, status = "not_started", 500


class UnsupportedOperation(GatewayError):
    code, status = "unsupported_operation", 404


class InternalError(GatewayError):
    code, status = "internal_error", 500


class TokenUnavailable(GatepassError):
    code, status, retryable = "token_unavailable", 503, True

    def __init__(self, message: str, *, credential: str, **said: Unpack[Said]) -> None:
        super().__init__(message, **said)
        self.hop, self.credential = f"credential:{credential}", credential


class UpstreamError(GatepassError):
    """The upstream, or the connection to it, failed.

    - `sent` is False if no byte of the request was written.
    - `of_request`: the request may have caused the error, so the breaker of the target does not count it.
    """

    status, retryable = 502, True

    def __init__(
        self, message: str, *, upstream: str, sent: bool = True, of_request: bool = False, **said: Unpack[Said]
    ) -> None:
        super().__init__(message, **said)
        self.hop, self.sent, self.of_request = f"upstream:{upstream}", sent, of_request


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

    def __init__(self, message: str, *, upstream: str, status: int = UpstreamError.status, advice: str = "") -> None:
        super().__init__(message, upstream=upstream, advice=advice)
        self.http_status = status


class UpstreamEmpty(UpstreamError):
    code = "upstream_empty"


class UpstreamRedirect(UpstreamError):
    code, retryable = "upstream_redirect", False


class UpstreamTimeout(UpstreamError):
    code, status = "upstream_timeout", 504

    def __init__(self, message: str, *, upstream: str, phase: str, sent: bool = True, **said: Unpack[Said]) -> None:
        super().__init__(message, upstream=upstream, sent=sent, **said)
        self.phase = phase

    @property
    def public_code(self) -> str:
        return f"{self.code}_{self.phase}"


class UpstreamErrorReply(UpstreamError):
    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        upstream: str,
        status: int,
        kind: str | None = None,
        upstream_code: str | None = None,
        error_body: Any = None,
        of_request: bool = False,
        **said: Unpack[Said],
    ) -> None:
        super().__init__(message, upstream=upstream, of_request=of_request, **said)
        self.error_body = error_body
        """The UpstreamErrorBody before gatepass added to its message; rules are learned from it."""
        self.http_status = status
        self.kind, self.upstream_code = kind, upstream_code
        """The upstream's `type` and `code`."""
        if error_body is not None and error_body.trace:
            self.detail = f"It sent:\n{error_body.trace}"
        self.original = b""
        """The upstream's body, if the client receives it unchanged (`ClientProtocol.own_error`)."""

    @property
    def public_code(self) -> str:
        return self.upstream_code or self.code

    @property
    def stable_code(self) -> str:
        # an upstream may send a code of gatepass too, but gatepass itself names its pages
        is_page = self.upstream_code == UpstreamHtml.code and getattr(self.error_body, "own", "") == "page"
        return self.public_code if is_page else self.code


class UpstreamAuth(UpstreamErrorReply):
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
    # asyncio joins the errors of several addresses in one text. Those of getaddrinfo have negative numbers.
    numbers = map(int, re.findall(r"\[Errno ([0-9]+)\]", str(error)))
    return ", ".join(dict.fromkeys(map(os.strerror, numbers))).lower() or (error.strerror or str(error)).lower()


class TransportFault(Exception):
    """A connection failure, raised by the HTTP client.

    `sent`: a byte of the request may have been written. `stale`: a reused connection closed without a byte of a reply,
    so the server most likely never read the request. RFC 9112 (section 9.3.1) leaves the retry to the client.
    `limit_s`: the timeout that passed, if it is one. `answered`: the server had sent a byte.
    """

    def __init__(
        self,
        kind: Fault,
        detail: str,
        *,
        sent: bool = True,
        stale: bool = False,
        limit_s: float | None = None,
        answered: bool = True,
    ) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind, self.detail = kind, detail
        self.sent, self.stale, self.limit_s, self.answered = sent, stale, limit_s, answered


class ClientGone(Exception):
    """The client closed its connection, so the work for its request is cancelled."""


_TIMEOUTS = frozenset(f"{UpstreamTimeout.code}_{phase}" for phase in ("connect", "first_byte", "idle", "total"))


def kind_of(code: str) -> type[GatepassError]:
    for kind in _kinds(GatepassError):
        if vars(kind).get("code") == code or (kind is UpstreamTimeout and code in _TIMEOUTS):
            return kind
        if issubclass(kind, CodedError) and code in kind.statuses:
            return kind
    return UpstreamErrorReply


def status_of(code: str) -> int:
    kind = kind_of(code)
    return kind.statuses[code] if issubclass(kind, CodedError) else kind.status


WITHOUT_VERSION = frozenset(("no_version", "no_api_version"))
"""The cases of a `base_url` that may be wrong: then no request succeeds."""


def _kinds(base: type[GatepassError]) -> Iterator[type[GatepassError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
