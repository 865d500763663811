"""Write errors in OpenAI's format: as a response, and as the last event of a stream."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from gatepass import errors
from gatepass.errors import GatepassError, UpstreamErrorReply
from gatepass.replies.error_body import error_kind
from gatepass.types import FINAL_CODES

REPLAYED = re.compile(
    r"rate limit|429|tpm limit|too many requests|requests per minute|server|503|502|504|500|unavailable"
)
"""Words in a stream's error for which RAGFlow repeats the whole chat: the text appears twice and tools run again.

RAGFlow searches for them in the lower-cased message (rag/llm/chat_model.py, `_classify_error`, unchanged since
v0.20.5). Of an error in a stream openai-python shows only the message (its `_streaming.py`).
"""

LONGEST_WAIT_S = 120
"""Above this `retry-after`, `x-should-retry: false` is sent, because some SDKs sleep for hours
(openai/openai-dotnet#404)."""
LONGEST_RETRY_AFTER_S = 86_400
"""Limit on `retry-after`, because an upstream's clock may be wrong."""

_RETRIED = frozenset((408, 409, 429))
"""The statuses below 500 that the openai SDKs retry."""


def error_object(error: GatepassError, request_id: str = "") -> dict[str, Any]:
    """Return `{"error": {message, type, param, code, hop, request_id}}`.

    Without `request_id` if there is no request.
    """
    return _envelope(error, request_id, error.message, _type(error))


def error_body(error: GatepassError, request_id: str = "") -> bytes:
    """Return the body of an error response in OpenAI's format. An error before the operation is known has it too."""
    return error_text(error_object(error, request_id))


NO_STORE = (b"cache-control", b"no-store")
"""A response is for one caller, so no cache may store it. A stream has its own field (proxy/client_response.py)."""


def error_headers(error: GatepassError) -> list[tuple[bytes, bytes]]:
    """Return the headers of an error response, without content-length.

    The openai SDKs send any request with a 5xx or 429 three times, and Claude Code one with a 401 ten times.
    `x-should-retry: false` stops them if a retry cannot succeed, or only after LONGEST_WAIT_S. The upstream's `false`
    is always passed on, its `true` for the statuses that the SDKs retry anyway.
    """
    headers = [
        (b"content-type", b"application/json"),
        NO_STORE,  # a cache may keep a 404 or 405 without it (RFC 9110, section 15.1)
        (b"x-gatepass-hop", error.hop.encode("latin-1", "replace")),
    ]
    if (after_s := retry_after(error)) is not None:
        headers.append((b"retry-after", str(after_s).encode()))
    should_retry = error.should_retry if error.should_retry is not True or _is_retried(error.http_status) else None
    if should_retry is not None:
        is_final = not should_retry
    else:
        is_final = not error.retryable
        if isinstance(error, UpstreamErrorReply) and _is_retried(error.http_status):
            # a retry cannot succeed although the status suggests one, by the upstream's `code` and `type`
            status, kind = error.http_status, (error.kind or "").lower()
            is_final |= status == 501 or (status == 500 and kind == "invalid_request_error")
            is_final |= not FINAL_CODES.isdisjoint({(error.upstream_code or "").lower(), kind})
    if is_final or (after_s or 0) > LONGEST_WAIT_S:
        headers.append((b"x-should-retry", b"false"))
    elif should_retry:
        headers.append((b"x-should-retry", b"true"))
    if isinstance(error, errors.MethodNotAllowed):
        headers.append((b"allow", error.allow.encode("latin-1", "replace")))  # RFC 9110, section 15.5.6
    if error.code == "unsupported_encoding":
        headers.append((b"accept-encoding", b"identity"))  # RFC 9110, section 15.5.16
    if isinstance(error, errors.InvalidApiKey):
        # a 401 must have it (RFC 9110, section 15.5.2; RFC 6750, section 3)
        is_token = isinstance(error, errors.InvalidToken)
        headers.append((b"www-authenticate", b'Bearer error="invalid_token"' if is_token else b"Bearer"))
    if error.code == "unsupported_upgrade":  # RFC 9110, sections 15.5.22 and 7.8
        headers += [(b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade")]
    return headers


def retry_after(error: GatepassError) -> int | None:
    """Return the wait before the next request in whole seconds (RFC 9110, section 10.2.3); None if it is not known."""
    if error.retry_after_s is None or not math.isfinite(error.retry_after_s):
        return None
    return max(1, math.ceil(min(error.retry_after_s, LONGEST_RETRY_AFTER_S)))


def stream_error(error: GatepassError, request_id: str = "", *, rewords: bool = False) -> bytes:
    """Return the `data: {"error": …}` event that ends a stream; nothing may follow it.

    It contains `error_object`. With `rewords` (`Profile.rewords_errors`) its message is one for which RAGFlow
    does not repeat the request (see `stream_message`).
    """
    if not rewords:
        return b"data: " + error_text(error_object(error, request_id)) + b"\n\n"
    kind = _type(error)
    kind = "stream_error" if REPLAYED.search(kind) else kind
    reworded = _envelope(error, request_id, stream_message(error), kind)
    return b"data: " + error_text(reworded) + b"\n\n"


def stream_message(error: GatepassError) -> str:
    """Return the message for RAGFlow in a stream: that of the error, unless it has a word of REPLAYED.

    RAGFlow searches the message for them, and the name of an upstream may contain one. Then it is a sentence with the
    error's code, or with its hop if the code has one too, such as `token_unavailable`.
    """
    if error.message and not REPLAYED.search(error.message.lower()):
        return error.message
    code = type(error).code if isinstance(error, UpstreamErrorReply) else error.public_code
    name = next((one for one in (code, error.hop) if not REPLAYED.search(one.lower())), "")
    return f"The answer ends here{': ' if name else ''}{name}."


def _is_retried(status: int) -> bool:
    return status >= 500 or status in _RETRIED


def _envelope(error: GatepassError, request_id: str, message: str, kind: str) -> dict[str, Any]:
    inner = {"message": message, "type": kind, "param": error.param, "code": error.public_code, "hop": error.hop}
    if request_id:
        inner["request_id"] = request_id
    if error.trace_id:
        inner["trace_id"] = error.trace_id
    return {"error": inner}


def _type(error: GatepassError) -> str:
    if isinstance(error, UpstreamErrorReply) and error.kind:
        return error.kind
    return error_kind(error.http_status)


def error_text(value: Any) -> bytes:
    """Return compact JSON in UTF-8 on one line. Half a surrogate pair, which upstreams do send, becomes a `?`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
