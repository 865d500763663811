"""Is this JSON an error, and what does it say? One reader for every shape that upstreams use.

The shapes, each with a test that holds a literal body: OpenAI and llama.cpp (nested), vLLM, SGLang
and Mistral (`object: error`), FastAPI and Ray (`detail`), LM Studio, Ollama and TGI (`error` is a
text), Gemini (an array), Google, OpenRouter (`metadata.raw`), Databricks, Azure API Management,
Kong, Cloudflare (`errors`), DashScope, iFlytek (`header`), SAP, RAGFlow and corporate envelopes
(`code` with `message` or `msg`), RFC 6749, RFC 9457, and relays that put one error's JSON into the
message of another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gatepass.call import Complaint
from gatepass.upstream import codes
from gatepass.upstream.shape import Found, Object, find, place_of, text_of
from gatepass.upstream.wording import Mask, clean, compact, quotable, unmasked

LABEL_CHARS = 100
_CODES = ("code", "error_code", "errorCode", "errcode")
_STATUSES = ("code", "status", "statusCode", "status_code", "error_code", "errorCode")
_SAID = frozenset({"message", "msg", "type", "param", "code", "object", "error"})
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
_GOOGLE_STATUS = re.compile(r"[A-Z][A-Z_]+\Z")
_REQUEST_ID = re.compile(r"\(request id:[^()]*\)\s*\Z", re.IGNORECASE)


def read_complaint(document: Any, *, refused: bool = False, mask: Mask = unmasked) -> Complaint | None:
    """What `document` (parsed JSON) complains of, or None where it is no error.

    `refused` says that the HTTP status was an error already: then a mere `message` counts too.
    A document with `choices` or `data` in a list is an error only by a true `error` or
    `object: error`; where the list is empty, also by a code of failure with a text.
    `{"code": 0, …}` never is. `status` in the result is what the words
    imply; None where they imply none. Never raises.
    """
    return _read(document, refused, mask, may_unwrap=True)


def _read(document: Any, refused: bool, mask: Mask, *, may_unwrap: bool) -> Complaint | None:
    found = find(document, refused)
    if found is None:
        return None
    issue = _issue(found)
    text = _said(found)
    inner = _inner(found, text, mask) if may_unwrap else None
    complaint = _complaint(found, issue, text, mask)
    return complaint if inner is None else _joined(complaint, inner)


def _complaint(found: Found, issue: Object, text: str | None, mask: Mask) -> Complaint:
    code = _code(found, issue)
    kind = _kind(found)
    status = _status(found, text or "", code, kind)
    words = text or code or compact(found.own) or ""
    return Complaint(
        message=clean(_REQUEST_ID.sub("", words), mask) or clean(words, mask) or "An error without words.",
        status=status,
        kind=_masked_label(kind, mask),
        code=_masked_label(code, mask),
        param=_masked_label(_param(found, issue), mask),
        raw=_raw(found, mask),
    )


def _joined(outer: Complaint, inner: Complaint) -> Complaint:
    """The inner error speaks, for it is the nearer one to the fault; what it leaves out the outer adds."""
    return replace(
        outer,
        message=inner.message,
        status=outer.status or inner.status,
        kind=inner.kind or outer.kind,
        code=inner.code or outer.code,
        param=inner.param or outer.param,
    )


def _said(found: Found) -> str | None:
    """The text of the error: in an `error` that is a text or a flag, the fuller one is beside it."""
    if isinstance(found.own, str):
        return text_of(found.outer) or found.own.strip() or None
    return text_of(found.own) or text_of(found.outer)


def _inner(found: Found, text: str | None, mask: Mask) -> Complaint | None:
    """The error that a relay quotes as JSON inside a text: OpenRouter's `metadata.raw`, or the message.

    After other words the JSON must be an error by itself: it might quote the caller's own request.
    """
    metadata = found.own.get("metadata") if isinstance(found.own, dict) else None
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    for quoted in (raw, text):
        if isinstance(quoted, str) and (start := _start(quoted.strip())) >= 0:
            complaint = _read(_decoded(quoted.strip()[start:]), start == 0, mask, may_unwrap=False)
            if complaint is not None:
                return complaint
    return None


def _start(text: str) -> int:
    starts = [index for index in (text.find("{"), text.find("[{")) if index >= 0]
    return min(starts, default=-1)


def _decoded(text: str) -> Any:
    """The JSON value that `text` starts with, whatever follows it; None where there is none."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
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
        label = _first_label(part, _CODES)
        if label is not None:
            return label
    if isinstance(found.own, str) and _IDENTIFIER.match(found.own) and text_of(found.outer):
        return found.own
    if "loc" in issue:
        return _label(issue.get("type"))
    return _label(found.own) if isinstance(found.own, int) else None


def _kind(found: Found) -> str | None:
    for part in (found.own, found.outer):
        label = _first_label(part, ("type", "error_type"))
        if label not in (None, "error"):
            return label
    status = found.own.get("status") if isinstance(found.own, dict) else None
    return status if isinstance(status, str) and _GOOGLE_STATUS.match(status) else None


def _param(found: Found, issue: Object) -> str | None:
    param = found.own.get("param") if isinstance(found.own, dict) else None
    return param.strip() or None if isinstance(param, str) else place_of(issue.get("loc"))


def _first_label(part: Any, names: Iterable[str]) -> str | None:
    if not isinstance(part, dict):
        return None
    return next((label for label in (_label(part.get(name)) for name in names) if label), None)


def _label(value: Any) -> str | None:
    """A `code` or `type` as text; a URI (RFC 9457 `type`) is a link and no label."""
    number = codes.whole_number(value)
    if number is not None:
        return str(value).strip()
    if not isinstance(value, str) or "://" in value or value == "about:blank":
        return None
    return value.strip() or None


def _masked_label(label: str | None, mask: Mask) -> str | None:
    return None if label is None else clean(label, mask, LABEL_CHARS) or None


def _status(found: Found, text: str, code: str | None, kind: str | None) -> int | None:
    numbers = [codes.whole_number(part.get(name)) for part in _objects(found) for name in _STATUSES]
    http = next((number for number in numbers if codes.is_http_error(number)), None)
    if http is not None:
        return http
    return (
        codes.ragflow_status(found.outer.get("code"), text)
        or codes.STATUS_OF_CODE.get((code or "").lower())
        or codes.STATUS_OF_KIND.get((kind or "").lower())
    )


def _objects(found: Found) -> list[Object]:
    return [part for part in (found.own, found.outer) if isinstance(part, dict)]


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
