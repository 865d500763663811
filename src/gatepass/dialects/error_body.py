"""Read an error body: decide whether a JSON document is an error, and return its message, code, type and status.

One reader for upstreams and token endpoints. The shapes, each with a test that holds a literal body: OpenAI and
llama.cpp (nested), vLLM, SGLang and Mistral (`object: error`), FastAPI and Ray (`detail`), LM Studio, Ollama and TGI
(`error` is a text), Gemini (an array), Google, OpenRouter (`metadata.raw`), Databricks, Azure API Management, Kong,
Cloudflare (`errors`), DashScope, iFlytek (`header`), SAP, RAGFlow and corporate envelopes (`code` with `message` or
`msg`), RFC 6749, RFC 9457, and relays that put the JSON of one error into the message of another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from gatepass.errors import OVER_QUOTA, REFUSED_CONTENT, TOO_LONG
from gatepass.types import UpstreamErrorBody

Object = Mapping[str, Any]

LABEL_CHARS = 100
_CODES = ("code", "error_code", "errorCode", "errcode")
_STATUSES = ("code", "status", "statusCode", "status_code", "error_code", "errorCode")
_SAID = frozenset({"message", "msg", "type", "param", "code", "object", "error"})
_JSON = re.compile(r"\{|\[\{")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
_GOOGLE_STATUS = re.compile(r"[A-Z][A-Z_]+\Z")
_REQUEST_ID = re.compile(r"\(request id:[^()]*\)\s*\Z", re.IGNORECASE)
ISSUES = 5
"""Entries of a list of errors that are quoted."""

_TEXTS = (
    *("message", "msg", "error_description", "errorMessage", "error_message", "error_msg", "errmsg"),
    *("detail", "description", "title", "reason"),
)
_ENVELOPE_CODES = (*_CODES, "statusCode", "status_code")
MEMBERS = (
    *("object", "error", "errors", "header", "success", "status", "type", "param", "error_type"),
    *(*_ENVELOPE_CODES, *_TEXTS),
)
"""The members of a document by which `read_error_body` tells an error, beside `choices` and `data`."""
_DEEPEST = 4
MESSAGE_CHARS = 2000
RAW_BYTES = 4096
RAW_DEPTH = 64

Mask = Callable[[str], str]
"""Takes known secrets out of a text (`Redactor.mask`)."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")
_BLANKS = re.compile(r"[ \t]+")
_LINES = re.compile(r" ?\n ?(?:\n\s*)?")

RAGFLOW_STATUS: Mapping[int, int] = MappingProxyType(
    {100: 502, 101: 400, 102: 400, 103: 400, 105: 502, 106: 503, 108: 403, 109: 403}
)
"""RAGFlow's RetCode (its HTTP status is 200): exception, argument, data, operating, connection,
running, permission, authentication. Codes of 400 and more are HTTP statuses there."""

RAGFLOW_ABSENT = ("don't own", "not found")
"""In the text of code 102: what was asked for is not there for this caller."""

STATUS_OF_CODE: Mapping[str, int] = MappingProxyType(
    {
        # an expired token told inside another status: ChatGPT's form, RFC 6750 3.1, Baidu's error_code
        "token_expired": 401,
        "access_token_expired": 401,
        "invalid_token": 401,
        "110": 401,
        "111": 401,
        "invalid_api_key": 401,
        "insufficient_scope": 403,
        "model_not_found": 404,
        "rate_limit_exceeded": 429,
        "unsupported_value": 400,
        "unsupported_parameter": 400,
        "unknown_parameter": 400,
        # Alibaba's DashScope, by its native and its compatible API
        "invalidparameter": 400,
        "invalid_parameter_error": 400,
        **dict.fromkeys(REFUSED_CONTENT | TOO_LONG, 400),
        **dict.fromkeys(OVER_QUOTA, 429),
    }
)

STATUS_OF_KIND: Mapping[str, int] = MappingProxyType(
    {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "permission_error": 403,
        "not_found_error": 404,
        "rate_limit_error": 429,
        "insufficient_quota": 429,
        "exceed_context_size_error": 400,
        "contextwindowexceedederror": 400,
    }
)

KIND_OF_STATUS: Mapping[int, str] = MappingProxyType(
    {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
)


@dataclass(frozen=True, slots=True)
class Found:
    """The error itself and the document around it (the same object where the error is flat)."""

    own: Any
    outer: Object


def unmasked(text: str) -> str:
    """The mask of somebody who knows no secret."""
    return text


def read_error_body(document: Any, *, refused: bool = False, mask: Mask = unmasked) -> UpstreamErrorBody | None:
    """What `document` (parsed JSON) complains of, or None where it is no error.

    `refused` says that the HTTP status was an error already: then a mere `message` counts too.
    A document with `choices` or `data` in a list is an error only by a true `error` or
    `object: error`; where the list is empty, also by a code of failure with a text.
    `{"code": 0, …}` never is. `status` in the result is what the words
    imply; None where they imply none. Never raises.
    """
    return _read(document, refused, mask, may_unwrap=True)


def _read(document: Any, refused: bool, mask: Mask, *, may_unwrap: bool) -> UpstreamErrorBody | None:
    found = find(document, refused)
    if found is None:
        return None
    issue = _issue(found)
    if isinstance(found.own, str):  # beside an `error` that is a text or a flag stands the fuller one
        text = text_of(found.outer) or found.own.strip() or None
    else:
        text = text_of(found.own) or text_of(found.outer)
    inner = _inner(found, text, mask) if may_unwrap else None
    error_body = _complaint(found, issue, text, mask)
    return error_body if inner is None else _joined(error_body, inner)


def _complaint(found: Found, issue: Object, text: str | None, mask: Mask) -> UpstreamErrorBody:
    code = _code(found, issue)
    kind = _kind(found)
    status = _status(found, text or "", code, kind)
    words = text or code or compact(found.own) or ""
    param = found.own.get("param") if isinstance(found.own, dict) else None
    param = param.strip() or None if isinstance(param, str) else place_of(issue.get("loc"))
    return UpstreamErrorBody(
        message=clean(_REQUEST_ID.sub("", words), mask) or clean(words, mask) or "An error without words.",
        status=status,
        kind=_masked_label(kind, mask),
        code=_masked_label(code, mask),
        param=_masked_label(param, mask),
        raw=_raw(found, mask),
    )


def _joined(outer: UpstreamErrorBody, inner: UpstreamErrorBody) -> UpstreamErrorBody:
    """The inner error speaks, for it is the nearer one to the fault; what it leaves out the outer adds."""
    return replace(
        outer,
        message=inner.message,
        status=outer.status or inner.status,
        kind=inner.kind or outer.kind,
        code=inner.code or outer.code,
        param=inner.param or outer.param,
        inside=inner.inside,
    )


def _inner(found: Found, text: str | None, mask: Mask) -> UpstreamErrorBody | None:
    """The error that a relay quotes as JSON inside a text: OpenRouter's `metadata.raw`, or the message.

    After other words the JSON must be an error by itself: it might quote the caller's own request.
    """
    metadata = found.own.get("metadata") if isinstance(found.own, dict) else None
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    for quoted in (raw, text):
        begins = _JSON.search(quoted.strip()) if isinstance(quoted, str) else None
        if begins is None:
            continue
        try:
            document, end = json.JSONDecoder().raw_decode(begins.string, begins.start())  # whatever follows it
        except (ValueError, RecursionError):
            continue
        error_body = _read(document, begins.start() == 0, mask, may_unwrap=False)
        if error_body is not None:
            return replace(error_body, inside=begins.string[begins.start() : end])
    return None


def _issue(found: Found) -> Object:
    """The first entry of a list of errors (pydantic's, Cloudflare's, Zod's), or nothing."""
    own = found.own
    message = own.get("message") if isinstance(own, dict) else None
    places: Iterable[Any] = (own,)
    if isinstance(own, dict):
        places = (own.get("detail"), message, message.get("detail") if isinstance(message, dict) else None)
    for place in places:
        if isinstance(place, list) and place and isinstance(place[0], dict):
            return place[0]
    return {}


def _code(found: Found, issue: Object) -> str | None:
    for part in (found.own, found.outer, issue):
        label = code_of(part)
        if label is not None:
            return label
    if isinstance(found.own, str) and _IDENTIFIER.match(found.own) and text_of(found.outer):
        return found.own
    if "loc" in issue:
        return _label(issue.get("type"))
    return _label(found.own) if isinstance(found.own, int) else None


def code_of(part: Any) -> str | None:
    """Return the code that the object `part` holds under one of its usual names, as text; None without one."""
    return _first_label(part, _CODES)


def _kind(found: Found) -> str | None:
    for part in (found.own, found.outer):
        label = _first_label(part, ("type", "error_type"))
        if label not in (None, "error"):
            return label
    status = found.own.get("status") if isinstance(found.own, dict) else None
    return status if isinstance(status, str) and _GOOGLE_STATUS.match(status) else None


def _first_label(part: Any, names: Iterable[str]) -> str | None:
    if not isinstance(part, dict):
        return None
    return next((label for label in (_label(part.get(name)) for name in names) if label), None)


def _label(value: Any) -> str | None:
    """A `code` or `type` as text; a URI (RFC 9457 `type`) is a link and no label."""
    number = whole_number(value)
    if number is not None:
        return str(value).strip()
    if not isinstance(value, str) or "://" in value or value == "about:blank":
        return None
    return value.strip() or None


def _masked_label(label: str | None, mask: Mask) -> str | None:
    return None if label is None else clean(label, mask, LABEL_CHARS) or None


def _status(found: Found, text: str, code: str | None, kind: str | None) -> int | None:
    parts = [part for part in (found.own, found.outer) if isinstance(part, dict)]
    numbers = [whole_number(part.get(name)) for part in parts for name in _STATUSES]
    http = next((number for number in numbers if is_http_error(number)), None)
    if http is not None:
        return http
    return (
        ragflow_status(found.outer.get("code"), text)
        or STATUS_OF_CODE.get((code or "").lower())
        or STATUS_OF_KIND.get((kind or "").lower())
    )


def _raw(found: Found, mask: Mask) -> Any:
    """The upstream's own object where it says more than message, type, param and code."""
    if isinstance(found.own, dict) and found.outer.keys() <= {"error"} | found.own.keys():
        own: Any = found.own
    else:
        own = found.outer or found.own
    if not isinstance(own, dict):
        return quotable(own, mask) if isinstance(own, list) else None
    more = any(value is not None for name, value in own.items() if name not in _SAID or isinstance(value, dict | list))
    return quotable(own, mask) if more else None


def find(document: Any, refused: bool) -> Found | None:
    """The error in `document`, or None; `refused` as in `read_error_body`."""
    if isinstance(document, dict):
        own = _own(document, refused)
        return None if own is None else Found(own, document)
    if isinstance(document, list) and document:
        if isinstance(document[0], dict) and document[0].get("error"):
            return find(document[0], refused)
        return Found(document, {}) if refused and text_of(document) else None
    return Found(document, {}) if refused and isinstance(document, str) and document.strip() else None


def _own(document: Object, refused: bool) -> Any:
    """The part of `document` that is the error, or None."""
    if document.get("error"):
        return document["error"]
    if document.get("object") == "error":
        return document
    lists = [value for value in (document.get("choices"), document.get("data")) if isinstance(value, list)]
    if any(lists):
        return None
    if isinstance(document.get("errors"), list) and document["errors"]:
        return document["errors"]
    header = document.get("header")
    if isinstance(header, dict) and _fails(header):
        return header
    if lists and not refused:
        return document if _fails(document) else None
    detail = document.get("detail")
    claims_success = any(name in document and is_success(document[name]) for name in _ENVELOPE_CODES)
    if detail and (refused or not claims_success):
        return detail if isinstance(detail, dict) else document
    if _fails(document) or (refused and text_of(document)):
        return document
    return None


def _fails(document: Object) -> bool:
    """Whether an envelope's code (or `success: false`, or a problem's status) comes with a text."""
    text = text_of(document)
    if text is None or is_success(text):
        return False
    if document.get("success") is False or is_http_error(whole_number(document.get("status"))):
        return True
    return any(not is_success(document.get(name)) for name in _ENVELOPE_CODES)


def text_of(value: Any, depth: int = 0) -> str | None:
    """What `value` says in words, lists and objects included, or None."""
    if isinstance(value, str):
        return value.strip() or None
    if depth > _DEEPEST:
        return None
    if isinstance(value, list):
        return "; ".join(text for text in (text_of(item, depth + 1) for item in value[:ISSUES]) if text) or None
    if isinstance(value, dict):
        text = next((text for text in (text_of(value.get(name), depth + 1) for name in _TEXTS) if text), None)
        place = place_of(value.get("loc"), full=True)
        return f"{place}: {text}" if text and place else text
    return None


def place_of(loc: Any, *, full: bool = False) -> str | None:
    """Pydantic's `loc` as a dotted path; without the leading "body" unless `full`."""
    if not isinstance(loc, list):
        return None
    steps = [str(step) for step in loc[:20] if isinstance(step, str) or whole_number(step) is not None]
    if not full and steps[:1] == ["body"]:
        steps = steps[1:]
    return ".".join(steps) or None


def kind_of(status: int) -> str:
    """The `type` that OpenAI's error object has for `status`."""
    return KIND_OF_STATUS.get(status) or ("invalid_request_error" if status < 500 else "server_error")


def whole_number(value: Any) -> int | None:
    """`value` where it is a small integer, as a number or as text; else None."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 12:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12:
        return value
    return None


def is_error(status: int) -> bool:
    """Whether a final status, in HTTP or beyond it, refuses what was asked for."""
    return status >= 400


def is_http_error(number: int | None) -> bool:
    return number is not None and 400 <= number <= 599


def ragflow_status(code: Any, text: str) -> int | None:
    """The status of RAGFlow's `{"code": …, "message": …}`; None for a code it does not have."""
    number = whole_number(code)
    if number == 102 and any(words in text.lower() for words in RAGFLOW_ABSENT):
        return 404
    return None if number is None else RAGFLOW_STATUS.get(number)


def is_success(code: Any) -> bool:
    """Whether an envelope's `code` says that all is well: 0, 2xx, "000000", "success", none at all."""
    number = whole_number(code)
    if number is not None:
        return number == 0 or 200 <= number <= 299
    if isinstance(code, str):
        return code.strip().lower() in ("", "ok", "success", "succeed", "succeeded")
    return True


def clean(text: str, mask: Mask, limit_chars: int = MESSAGE_CHARS) -> str:
    """`text` without secrets, control characters and runs of blanks, at most `limit_chars` long.

    Line breaks stay (one empty line at most). The mask comes first: a cut secret is no longer known
    by its value.
    """
    text = mask(text).encode("utf-8", "replace").decode("utf-8")
    text = _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _LINES.sub(lambda run: "\n\n" if run[0].count("\n") > 1 else "\n", _BLANKS.sub(" ", text)).strip()
    return text if len(text) <= limit_chars else text[: limit_chars - 1].rstrip() + "…"


def compact(value: Any) -> str | None:
    """`value` as one line of JSON, or None where it cannot be written."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        return None


def quotable(value: Any, mask: Mask) -> Any:
    """`value` with every text in it masked; None where it takes more than RAW_BYTES as JSON, or nests deeper
    than RAW_DEPTH."""
    text = compact(value)
    if text is None or len(text.encode("utf-8", "replace")) > RAW_BYTES:
        return None
    try:
        return _masked(value, mask, RAW_DEPTH)
    except RecursionError:
        return None


def _masked(value: Any, mask: Mask, depth: int) -> Any:
    """Raises RecursionError below `depth`: the interpreter's own bound differs from version to version."""
    if depth < 0:
        raise RecursionError
    if isinstance(value, str):
        return mask(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_masked(item, mask, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_masked(name, mask, depth): _masked(item, mask, depth - 1) for name, item in value.items()}
    return value
