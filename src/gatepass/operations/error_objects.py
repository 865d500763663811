"""An error in OpenAI's words: as a response, and as the last event of a stream that has begun."""

from __future__ import annotations

import json
import math
import re
from types import MappingProxyType
from typing import Any

from gatepass.errors import (
    FINAL_CODES,
    GatepassError,
    InvalidApiKey,
    MethodNotAllowed,
    UpstreamAuth,
    UpstreamErrorReply,
)

REPLAYED = re.compile(
    r"rate limit|429|tpm limit|too many requests|requests per minute|server|503|502|504|500|unavailable"
)
"""What RAGFlow repeats a whole chat for when a stream ends in an error that says so: the text comes twice and tools
run again. Its own words (rag/llm/chat_model.py, `_classify_error`, the same from v0.20.5 on), searched in the
lower-cased message, which is all of a mid-stream error that openai-python shows (its `_streaming.py`)."""

UPSTREAM_OBJECT_BYTES = 4096
LONGEST_WAIT_S = 120
"""openai-python and openai-node from 3.x on repeat nothing that asks for a longer wait; others sleep
through hours of it (openai/openai-dotnet#404), so they are told not to."""
LONGEST_TOLD_S = 86_400
"""No `retry-after` says more than a day, whatever an upstream's clock made of it."""

_TYPES = MappingProxyType({401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"})

_REPEATED = frozenset((408, 409, 429))
"""Below 500 the openai SDKs repeat these."""

_ENDS = "The answer ends here: "
_STREAM_TEXTS = MappingProxyType(
    {
        "draining": "gatepass is being stopped.",
        "not_started": "gatepass has not started.",
        "overloaded": "gatepass had no room for it.",
        "concurrency_limited": "the caller has as many requests under way as it may.",
        "internal_error": "gatepass itself failed. Its log tells why.",
        "token_unavailable": "no token could be had for the upstream. The log of gatepass tells the issuer's reason.",
        "upstream_connect": "the upstream could not be reached.",
        "upstream_dns": "the upstream's host name could not be resolved.",
        "upstream_tls": "no TLS connection to the upstream could be made.",
        "upstream_closed": "the stream of the upstream ended before the answer was complete.",
        "upstream_invalid": "what the upstream sent could not be read as a stream.",
        "upstream_html": "the upstream sent a web page, perhaps a login page.",
        "upstream_empty": "the upstream sent nothing.",
        "upstream_redirect": "the upstream answered with a redirect, which gatepass does not follow.",
        "upstream_timeout_connect": "the upstream took longer to connect to than timeouts.connect_s allows.",
        "upstream_timeout_first_byte": "the upstream took longer to begin than timeouts.first_byte_s allows.",
        "upstream_timeout_idle": "the upstream fell silent for longer than timeouts.idle_s allows.",
        "upstream_timeout_total": "the request took longer than timeouts.total_s allows.",
        "upstream_auth": "the upstream refused the authorization of gatepass, with a new token too.",
        "upstream_error": "the upstream refused the request.",
    }
)


def error_object(error: GatepassError) -> dict[str, Any]:
    """`{"error": {message, type, param, code, hop}}`, and `upstream` where the upstream said more."""
    return _envelope(error, error.message, _type(error), _said_upstream(error))


def error_body(error: GatepassError) -> bytes:
    """The body of the response that tells of `error`."""
    return _json(error_object(error))


def error_headers(error: GatepassError) -> list[tuple[bytes, bytes]]:
    """The headers of that response, content-length aside.

    `x-should-retry: false` stops the openai SDKs where a repeat cannot help: they would send any
    5xx and 429 three times, or where it would have to wait for longer than LONGEST_WAIT_S. The
    upstream's own `false` is always passed on, its `true` for the statuses that the SDKs repeat anyway.
    """
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-gatepass-hop", error.hop.encode("latin-1", "replace")),
    ]
    after_s = _retry_after_s(error)
    if after_s is not None:
        headers.append((b"retry-after", str(after_s).encode()))
    told = error.should_retry if error.should_retry is not True or _is_repeated(error.http_status) else None
    is_final = _is_final(error) if told is None else not told
    if is_final or (after_s or 0) > LONGEST_WAIT_S:
        headers.append((b"x-should-retry", b"false"))
    elif told:
        headers.append((b"x-should-retry", b"true"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode("latin-1", "replace")))
    if isinstance(error, InvalidApiKey):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def stream_error(error: GatepassError, *, rewords: bool = False) -> bytes:
    """One `data: {"error": …}` event that ends a begun stream; nothing may follow it.

    It is the object of `error_object`. With `rewords` (`profiles.NAME.rewords_errors`) its message is one for which
    RAGFlow does not repeat the request (see `stream_message`).
    """
    return b"data: " + _json(_reworded(error) if rewords else error_object(error)) + b"\n\n"


def response_error(error: GatepassError, *, rewords: bool = False) -> bytes:
    """The same for a stream of the Responses API: its own `error` event, in which openai-python's older reader of
    streams finds the `error` that it raises, too."""
    said = json.loads(stream_error(error, rewords=rewords).removeprefix(b"data: "))
    told = {"type": "error", **{name: said["error"].get(name) for name in ("code", "message", "param")}, **said}
    return b"event: error\ndata: " + _json(told) + b"\n\n"


def _reworded(error: GatepassError) -> dict[str, Any]:
    message, said = stream_message(error), _said_upstream(error)
    if said is None and isinstance(error, UpstreamErrorReply) and error.message not in ("", message):
        said = _capped({"message": error.message})
    kind = _type(error)
    return _envelope(error, message, "stream_error" if REPLAYED.search(kind) else kind, said)


def stream_message(error: GatepassError) -> str:
    """The sentence for RAGFlow where a stream has begun: a fixed one for each code, without names of upstreams.

    openai-python shows a client this sentence alone (its `_streaming.py` raises APIError with
    `error.message`), and RAGFlow searches what it shows for the words of REPLAYED, which a name
    may hold too. An upstream's own refusal keeps its words where none of them stands in it.
    """
    if isinstance(error, UpstreamErrorReply) and not isinstance(error, UpstreamAuth):
        if error.message and not REPLAYED.search(error.message.lower()):
            return error.message
        return _ENDS + _STREAM_TEXTS[UpstreamErrorReply.code]
    return _ENDS + _STREAM_TEXTS.get(error.public_code, "the request could not be served.")


def _retry_after_s(error: GatepassError) -> int | None:
    after_s = error.retry_after_s
    if after_s is None or not math.isfinite(after_s):
        return None
    return max(1, math.ceil(min(after_s, LONGEST_TOLD_S)))


def _is_final(error: GatepassError) -> bool:
    if isinstance(error, UpstreamAuth) or (error.http_status >= 500 and not error.retryable):
        return True
    return isinstance(error, UpstreamErrorReply) and _is_refused_for_good(error)


def _is_repeated(status: int) -> bool:
    """Whether the openai SDKs repeat a request that got this status."""
    return status >= 500 or status in _REPEATED


def _is_refused_for_good(error: UpstreamErrorReply) -> bool:
    """By what the upstream says of it, whatever the status: its `code` and `type` (OpenAI's empty account is a 429,
    llama.cpp's full context was a 500); and 501, which is not implemented."""
    status, kind = error.http_status, (error.kind or "").lower()
    if not _is_repeated(status):
        return False
    said = {(error.upstream_code or "").lower(), kind}
    return status == 501 or not FINAL_CODES.isdisjoint(said) or (status == 500 and kind == "invalid_request_error")


def _envelope(error: GatepassError, message: str, kind: str, said: Any) -> dict[str, Any]:
    inner = {"message": message, "type": kind, "param": error.param, "code": error.public_code, "hop": error.hop}
    if said is not None:
        inner["upstream"] = said
    return {"error": inner}


def _type(error: GatepassError) -> str:
    if isinstance(error, UpstreamErrorReply) and error.kind:
        return error.kind
    status = error.http_status
    return _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def _said_upstream(error: GatepassError) -> Any:
    return _capped(error.raw) if isinstance(error, UpstreamErrorReply) and error.raw is not None else None


def _capped(raw: Any) -> Any:
    """`raw`, its JSON text cut where that is too long, or None where it has none (NaN and the like)."""
    try:
        text = json.dumps(raw, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError):
        return None
    if len(text) <= UPSTREAM_OBJECT_BYTES:
        return raw
    return text[:UPSTREAM_OBJECT_BYTES].decode("utf-8", "ignore") + "…"


def _json(value: Any) -> bytes:
    """Compact UTF-8 on one line; half a surrogate pair, which upstreams do send, becomes a `?`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
