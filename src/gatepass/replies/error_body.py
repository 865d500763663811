"""Decide whether a JSON document is an error, and return its message, code, type and status.

These are the shapes. Each has a test with a literal body.

* `error` as an object: OpenAI, llama.cpp, Google, OpenRouter (`metadata.raw`), and Gemini in an array.
* `error` as a text: LM Studio, Ollama, TGI, RFC 6749.
* `object: error`: vLLM, SGLang, Mistral.
* `detail`: FastAPI, Ray, RFC 9457.
* `errors`: Cloudflare. With an error status also texts by member (ASP.NET, alone: Django REST), and a list of errors
  with any name.
* `header`, `base_resp`, `Response`, `ResponseMetadata`, `fault`: iFlytek, MiniMax, Tencent, Volcengine, Apigee.
* A code and a text: RAGFlow, DashScope, SAP, Databricks, Azure API Management, corporate envelopes.
* A text alone, with an error status: Kong.
* An error as JSON in the message of another error, also escaped and several times: relays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import msgspec

from gatepass.types import OVER_QUOTA, RAGFLOW_ABSENT, REFUSED_CONTENT, TOO_LONG, TOO_LONG_TEXT, UpstreamErrorBody

Object = Mapping[str, Any]

CODE_NAMES = (
    *("code", "error_code", "errorCode", "errcode", "errCode", "Code"),
    *("retcode", "retCode", "returnCode", "resultCode", "rtnCode", "respCode", "__type", "ret", "errno", "err_no"),
    "resp_code",
)
"""Members that contain an error's code. The first that is present is used, as of TEXT_NAMES."""
TEXT_NAMES = (
    *("error_description", "message", "msg", "errorMessage", "error_message", "error_msg", "errmsg"),
    *("detail", "description", "title", "reason", "Message", "faultstring", "errMsg", "status_msg"),
    *("retmsg", "retMsg", "returnMsg", "returnMessage", "resultMsg", "resultMessage", "errorMsg"),
    *("rtnMsg", "respMsg", "errorSummary", "err_msg", "resp_msg"),
)
_STATUSES = (*CODE_NAMES, "status", "statusCode", "status_code")
LABEL_CHARS = 100
_STANDARD = frozenset({"message", "msg", "type", "param", "code", "object", "error"})
_JSON = re.compile(r"\{|\[\{")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
# Google names the kind of an error in `status`: UNAUTHENTICATED
_GOOGLE_STATUS = re.compile(r"[A-Z][A-Z_]+\Z")
# new-api appends its own id to the upstream's sentence
_REQUEST_ID = r"(?i)\(request id:[^()]*\)\s*\Z"
ISSUES = 8
"""The most entries of a list of errors that are quoted."""

_NAMED_ERRORS = ("fault", "Fault", "Error", "err")
WRAPPERS = ("header", "base_resp", "meta", "Response", "ResponseMetadata", *_NAMED_ERRORS)
"""Objects around the code and the text of an error."""
CONTENTS = ("data", "result", "content")
"""What holds the text of an envelope that says that it failed, if the envelope has none. An object of an API, which
has a `type` or an `object`, has its answer there."""
_NO = (False, "false", "False")
_ENVELOPE_CODES = (*CODE_NAMES, "statusCode", "status_code")
_STATES = ("status", "state", "result")
_ERRORS = ("error", "errors")
_SUCCEEDED = r"\s*[^不未没失]{0,6}成功[。！!]?\s*\Z"
_FAILED = frozenset(("error", "fail", "failed", "failure"))
MEMBERS = (
    *("object", "error", "errors", "success", "ok", "isError", "type", "param", "error_type", *_STATES, *WRAPPERS),
    *(*_ENVELOPE_CODES, *TEXT_NAMES),
)
"""The members from which `read_error_body` recognizes an error, in addition to `choices` and `data`."""
_DEEPEST = 4
MESSAGE_CHARS = 2000
DETAIL_CHARS = 8000
"""Of a stack trace, which only an operator reads."""
RAW_BYTES = 4096
RAW_DEPTH = 64

Mask = Callable[[str], str]
"""Masks known secrets in a text (`Redactor.mask`). `str` is that of a caller that knows none."""

CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
"""What a terminal may execute, and what changes the order in which a text is shown."""
_FILE = r"\.(?:[cm]?[jt]sx?|java|kt|scala|cs|fs|go|py|rb|php|rs|clj)(?::| on |\()(?:line )?\d"
_PLACE = r"(?:\.{0,2}/|[A-Za-z]:[\\/]|file:|node:|webpack)[^\s()]{1,200}:\d"
_TRACE = re.compile(
    r"(?m)Traceback \(most recent call last\):(?=\s*$|\s+File \")|^[ \t]*File \"[^\"\n]{1,200}\", line \d{1,9}, in "
    r"|\bgoroutine \d{1,9} \[[^\]\n]{1,60}\]:|\b[Ss]tack ?(?:back)?trace(?:back)?:(?=\s*$|\s+#\d)"
    rf"|(?:^|(?<=\s))#\d \S{{1,200}}\.php\(\d|^\s?/\S{{1,200}}{_FILE}\S*(?: \+0x\w+)?$"
    r"|^[ \t]*(?:from )?\S{1,200}\.rb:\d{1,9}:in [`']"
    r"|(?:^[ \t]*|(?<=\s)at )[\w$][\w$./@<>-]{0,200}\.[\w$<>]{1,99}"
    r"\((?:\w{1,99}\.(?:java|kt|scala):\d{1,9}|Native Method|Unknown Source)\)"
    rf"|\bat [^\s()]{{1,99}}(?: [^\s()]{{1,99}}){{0,3}} \({_PLACE}"
    rf"|^[ \t]*at (?:(?:async )?{_PLACE}|[^\n]{{1,200}}? in \S[^\n]{{0,200}}:line \d|[^()\n]{{1,200}}\(<anonymous>\)"
    r"|[\w<>`]{1,99}\.[\w.<>`+,\[\]]{1,200}\([^()\n]{0,200}\)\s*$)"
)
"""The first frame of a stack trace of Python, Go, Rust, PHP, Ruby, Node, Java or C#, or the line above it.

A place in a file alone is no frame: errors of schemas and templates, and what clients send, have such places too.
"""
_THROWN = re.compile(r"(?m)^[\w.$]*(?:Error|Exception|panic)\b.*")
TRACE_CHARS = 4000
"""How much of a text is searched for frames."""
_BLANKS = r"[ \t]+"
_LINES = r" ?\n ?(?:\n\s*)?"

RAGFLOW_STATUS: Mapping[int, int] = {100: 502, 101: 400, 102: 400, 103: 400, 105: 502, 106: 503, 108: 403, 109: 403}
"""RAGFlow's RetCode in a 200: exception, argument, data, operating, connection, running, permission, authentication."""

_OF_ANY_FAULT = (100, 102)
"""RAGFlow's codes whose text quotes its model's error. Such a text may speak of a quota without being about one."""
_LIMITED = (
    r"(?i)rate.?limit|too many|\b429\b|exceed.{0,40}(?:quota|limit)|quota.{0,40}exceed"
    r"|限流|请求过于频繁|(?:配额|额度)超"
)
_EXHAUSTED = (
    r"(?i)insufficient.?(?:user.?)?(?:quota|balance|credit)|(?:余额|额度|配额)(?:不足|.{0,4}(?:用完|用尽|耗尽))|欠费"
)
"""Of an account that a retry does not fill."""

_BAD_REQUEST = rf"(?i){TOO_LONG_TEXT}|参数(?:错误|无效)|\bparameter is invalid|must have less than \d+ tokens"
"""Words of an error that the request caused, whatever its code is: SiliconFlow writes the last two."""
QUOTED = (
    r"(?:(?<!\w)'|'(?=\s))[^']{1,400}(?:'(?!\w)|(?<=\s)')|\"[^\"]{1,400}\"|`[^`]{1,400}`|“[^”]{1,400}”"
    r"|‘[^’]{1,400}’|「[^」]{1,400}」"
)
"""A quote, which may be a client's text."""

STATUS_OF_CODE: Mapping[str, int] = {
    # an expired token reported with another status: ChatGPT, RFC 6750 section 3.1, Baidu's error_code
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
    # Alibaba's DashScope: its native API and its compatible API
    "invalidparameter": 400,
    "invalid_parameter_error": 400,
    "invalid_parameter": 400,
    **dict.fromkeys(REFUSED_CONTENT | TOO_LONG, 400),
    **dict.fromkeys(OVER_QUOTA, 429),
}

STATUS_OF_MINIMAX: Mapping[int, int] = {
    **dict.fromkeys((1026, 1027, 2013), 400),
    **dict.fromkeys((1002, 1039, 2056), 429),
    **dict.fromkeys((1004, 2049), 401),
    1008: 402,
}
"""Of `base_resp.status_code`: content or parameters, limits, the key, the balance."""

STATUS_OF_KIND: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "request_too_large": 413,  # of Anthropic, like the three after it
    "billing_error": 402,
    "api_error": 502,
    "server_error": 502,  # of OpenAI
    "timeout_error": 504,
    "overloaded_error": 529,
    "exceed_context_size_error": 400,  # of llama.cpp, with a 500 in old versions
    "contextwindowexceedederror": 400,  # of LiteLLM
}

KIND_OF_STATUS: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Found(msgspec.Struct, frozen=True):
    """The error itself, and the document around it. Both are the same object if the error is flat."""

    own: Any
    outer: Object


def read_error_body(document: Any, *, refused: bool = False, mask: Mask = str) -> UpstreamErrorBody | None:
    """Return the error in `document` (parsed JSON), or None if it is not an error. Never raises.

    `refused`: the HTTP status is an error already. Then a document with only a `message` is an error too.

    A document with a list of `choices` or `data` is an error only with a true `error` or `object: error`. If the list
    is empty, a failure code with a text is an error too. `{"code": 0, …}` is never an error.

    `status` of the result is the one that the error's code, type and text imply; None if they imply none.
    """
    return _read(document, refused, mask, _DEEPEST)


def _read(document: Any, refused: bool, mask: Mask, depth: int) -> UpstreamErrorBody | None:
    found = find(document, refused)
    if found is None:
        return None
    issue = _issue(found)
    if isinstance(found.own, str):  # the document around an `error` that is a text often has a longer one
        text = text_of(found.outer) or found.own.strip() or None
    else:
        issues = found.own.get("errors") if isinstance(found.own, dict) else None
        text = text_of(found.own) or _told(found.outer) or text_of(issues)
    # LiteLLM, OpenRouter and new-api put the upstream's JSON into a text
    inner = _inner(found.outer or found.own, text, mask, depth)
    code = _code(found, issue)
    labels = (_first_label(part, ("type", "error_type")) for part in (found.own, found.outer))
    kind = next((label for label in labels if label not in (None, "error")), None)
    google = found.own.get("status") if isinstance(found.own, dict) else None
    if kind is None and isinstance(google, str) and _GOOGLE_STATUS.match(google):
        kind = google
    written = _written_status(found)
    status = written or _implied_status(found, text or "", code, kind)
    is_any = code is None or whole_number(found.outer.get("code")) in _OF_ANY_FAULT
    if is_any and status == 429 and re.search(_EXHAUSTED, text or ""):
        code = "insufficient_quota"
    words: str = text or code or ""
    own: Literal["", "body"] = ""
    if not text and (code is None or whole_number(code) is not None):  # a number alone does not show what it is
        words, own = (f"code {code}" if code else f"status {status}" if status else compact(found.own)) or "", "body"
    if text and (filters := _filters(found.own)):
        words = f"{text} (filtered: {', '.join(filters)})"
    param = found.own.get("param") if isinstance(found.own, dict) else None
    if isinstance(param, dict):
        param = next((value for name in ("name", "path", *PLACES) if isinstance(value := param.get(name), str)), None)
    param = param.strip() or None if isinstance(param, str) else path_of_loc(param or issue.get("loc"))
    said = re.sub(_REQUEST_ID, "", words)
    reason = before_trace(said)
    error_body = UpstreamErrorBody(
        message=clean(reason, mask) or clean(words, mask) or "An error without a message.",
        trace=clean(said, mask, DETAIL_CHARS) if reason != said else "",
        status=status,
        kind=_masked_label(kind, mask),
        code=_masked_label(code, mask),
        param=_masked_label(param, mask),
        raw=_raw(found, mask),
        own=own,
        written_status=written,
    )
    if inner is None:
        return error_body
    # The inner error is nearer to the fault. The outer one adds what it lacks.
    return replace(
        error_body,
        message=inner.message,
        trace=inner.trace or error_body.trace,
        status=error_body.status or inner.status,
        written_status=written or inner.written_status,
        own=inner.own,
        kind=inner.kind or error_body.kind,
        code=inner.code or error_body.code,
        param=inner.param or error_body.param,
        inside=inner.inside,
    )


def _inner(document: Any, text: str | None, mask: Mask, depth: int) -> UpstreamErrorBody | None:
    """Return the error that a relay quotes as JSON inside a text: OpenRouter's `metadata.raw`, a `cause`, the message.

    JSON after other text must be an error by itself, because it might quote the caller's request.
    """
    for quoted in (*islice(reasons(document), ISSUES), text or "") if depth else ():
        start_of_json = _JSON.search(quoted.strip().strip('"'))
        if start_of_json is None:
            continue
        try:
            # ignores text after the JSON
            inside, end = json.JSONDecoder().raw_decode(start_of_json.string, start_of_json.start())
        except (ValueError, RecursionError):
            bare = quoted[:READ_CHARS].replace('\\"', '"').replace("\\\\", "\\")
            found = _inner(None, bare, mask, depth - 1) if len(bare) < len(quoted) <= READ_CHARS else None
        else:
            found = _read(inside, start_of_json.start() == 0, mask, depth - 1) or _inner(inside, None, mask, depth - 1)
            found = found and replace(found, inside=start_of_json.string[start_of_json.start() : end])
        if found is not None:
            return found
    return None


_REASONS = frozenset(
    (*TEXT_NAMES, "defaultMessage", "details", "error", "raw", "cause", "body", "response", "upstream_error")
)


PLACES = ("field", "parameter", "property", "propertyPath", "key", "additionalProperty", "pointer", "instancePath")
"""Members of the object with a reason, of its `params` or its `source`, that name what the reason is about."""


def reasons(document: Any, depth: int = _DEEPEST + 2, places: Iterable[str] = ()) -> Iterator[str]:
    """Yield the texts of `document` whose names say that they are a reason, at any depth, behind that of `places`."""
    if isinstance(document, list) and depth:
        for one in document[:ISSUES]:
            yield from reasons(one, depth - 1, places)
    elif isinstance(document, dict) and depth:
        for name, value in document.items():
            if isinstance(value, str) and name in _REASONS:
                inner = (document.get("params"), document.get("source"))
                owners = [one for one in (document, *inner) if isinstance(one, dict)]
                named = (one.get(key) for one in owners for key in places)
                loc = path_of_loc(document.get("loc")) if places else None
                place = next((one for one in named if isinstance(one, str) and one), loc) or ""
                yield value if place in value else f"{place}: {value}"
            if "loc" not in document or name not in ("input", "ctx"):  # of pydantic: what the client sent
                yield from reasons(value, depth - 1, places)


ZOD_CODE = "unrecognized_keys"


def unknown_keys(document: Any) -> Iterator[str]:
    """Yield a sentence for each of zod's issues about unknown keys."""
    issues = document if isinstance(document, list) else document.get("error") if isinstance(document, dict) else None
    for issue in issues if isinstance(issues, list) else ():
        if isinstance(issue, dict) and issue.get("code") == ZOD_CODE and isinstance(keys := issue.get("keys"), list):
            path = issue.get("path")
            place = "".join(f"{step}." for step in path)[:RAW_BYTES] if isinstance(path, list) else ""
            keys = keys[: 2 * RAW_BYTES // (len(place) + 1) + 1]
            yield f"Unknown keys: {', '.join(f'`{place}{key}`' for key in keys)}"


def _filters(own: Any) -> list[str]:
    """Return the names of the content filters in Azure's `innererror` that refused the request."""
    inner = own.get("innererror") if isinstance(own, dict) else None
    results = inner.get("content_filter_result") if isinstance(inner, dict) else None
    shown = islice(results.items(), 2 * ISSUES) if isinstance(results, dict) else ()
    refused = [name for name, one in shown if isinstance(one, dict) and one.get("filtered") is True]
    return [name for name in refused if re.fullmatch("[a-z_]{1,40}", name)]


def _issue(found: Found) -> Object:
    """Return the first entry of a list of errors (pydantic, Cloudflare, Zod), or an empty object."""
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
        label = _first_label(part, CODE_NAMES)
        if label is not None:
            return label
    if isinstance(found.own, str) and _IDENTIFIER.match(found.own) and ("_" in found.own or text_of(found.outer)):
        return found.own
    if "loc" in issue:
        return _label(issue.get("type"))
    return _label(found.own) if isinstance(found.own, int) else None


def _first_label(part: Any, names: Iterable[str]) -> str | None:
    if not isinstance(part, dict):
        return None
    return next((label for label in (_label(part.get(name)) for name in names) if label), None)


def _label(value: Any) -> str | None:
    """Return a `code` or `type` as text; None for a URI, because the `type` of RFC 9457 is a link."""
    number = whole_number(value)
    if number is not None:
        return str(value).strip()
    if not isinstance(value, str) or "://" in value or value == "about:blank":
        return None
    return value.strip() or None


def _masked_label(label: str | None, mask: Mask) -> str | None:
    return None if label is None else clean(label, mask, LABEL_CHARS) or None


def _written_status(found: Found) -> int | None:
    """Return the status of vLLM, Gemini, OpenRouter and others that send it."""
    parts = [part for part in (found.own, found.outer) if isinstance(part, dict)]
    codes = (part[name] for part in parts for name in _STATUSES if name in part)
    statuses = ((_http_status(code), whole_number(code)) for code in codes)
    return next((status for status, code in statuses if status in OF_LONGER_CODES or (status and status == code)), None)


OF_LONGER_CODES = frozenset((*range(400, 405), 408, 409, 413, 422, 429, 500, 502, 503, 504))
"""What the beginning of a longer code may mean. Others have numbers of their own: SiliconFlow's 50508 is no 505."""


def _implied_status(found: Found, text: str, code: str | None, kind: str | None) -> int | None:
    if "base_resp" in found.outer and isinstance(found.own, dict):
        known = STATUS_OF_MINIMAX.get(whole_number(found.own.get("status_code")) or 0)
    else:
        known = (
            ragflow_status(found.outer.get("code"), text)
            or STATUS_OF_CODE.get((code or "").lower())
            or STATUS_OF_KIND.get((kind or "").lower())
            or (429 if code is None and (re.search(_LIMITED, text) or re.search(_EXHAUSTED, text)) else None)
        )
    return known or (400 if re.search(_BAD_REQUEST, re.sub(QUOTED, "…", text[:MESSAGE_CHARS])) else None)


def _http_status(value: Any) -> int | None:
    """Return the error status that a number is or begins with, as corporate gateways write 401: 40101, 401001."""
    number = whole_number(value) or 0
    if number >= 10_000:
        number = int(str(number)[:3]) if number < 1_000_000 else 0
    return number if is_http_error(number) else None


def _raw(found: Found, mask: Mask) -> Any:
    """Return the upstream's object if it has more members than message, type, param and code."""
    if isinstance(found.own, dict) and found.outer.keys() <= {"error"} | found.own.keys():
        own: Any = found.own
    else:
        own = found.outer or found.own
    if not isinstance(own, dict):
        return quotable(own, mask) if isinstance(own, list) else None
    more = any(
        value is not None for name, value in own.items() if name not in _STANDARD or isinstance(value, dict | list)
    )
    return quotable(own, mask) if more else None


def find(document: Any, refused: bool) -> Found | None:
    """Return the error in `document`, or None. `refused`: see `read_error_body`."""
    if isinstance(document, dict):
        own = _own(document, refused)
        return None if own is None else Found(own, document)
    # Gemini's OpenAI endpoint sends the error in an array
    if isinstance(document, list) and document:
        if isinstance(document[0], dict) and document[0].get("error"):
            return find(document[0], refused)
        return Found(document, {}) if refused and text_of(document) else None
    return Found(document, {}) if refused and isinstance(document, str) and document.strip() else None


def _own(document: Object, refused: bool) -> Any:
    if document.get("error"):
        return document["error"]
    # vLLM before 0.10.1 and SGLang send the error flat (vllm-project/vllm#22099)
    if document.get("object") == "error":
        return document
    lists = [value for value in (document.get("choices"), document.get("data")) if isinstance(value, list)]
    if any(lists):
        return None
    issues = document.get("errors")
    if refused and isinstance(issues, dict):
        issues = _by_member(issues)
    if isinstance(issues, list) and issues:
        return issues
    for name in WRAPPERS:
        inner = document.get(name)
        is_named = name in _NAMED_ERRORS or (isinstance(inner, dict) and "Error" in inner)
        inner = inner.get("Error", inner) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and (_fails(inner) or ((refused or is_named) and is_failure(inner))):
            return inner
    if lists and not refused:
        return document if _fails(document) else None
    # FastAPI; a success of a corporate envelope may have a `detail` too
    detail = document.get("detail")
    claims_success = any(name in document and is_success(document[name]) for name in _ENVELOPE_CODES)
    if detail and (refused or not claims_success):
        return detail if isinstance(detail, dict) else document
    if _fails(document) or (refused and (text_of(document) or _has_failure_code(document) or says_failure(document))):
        return document
    # a list of errors with another name, such as `messages`
    listed = (value for value in document.values() if isinstance(value, list) and value and isinstance(value[0], dict))
    own = next((value for value in listed if refused and text_of(value)), None)
    if own is None and refused and document and all(map(_is_list_of_texts, document.values())):
        return _by_member(document)
    return own


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _by_member(issues: Object) -> list[str]:
    return [f"{name}: {text}" for name, value in issues.items() if (text := text_of(value))]


def _fails(document: Object) -> bool:
    """Whether an envelope has a text and a failure code, or says that it failed."""
    text = _told(document)
    is_told = text is not None and not is_success(text)
    return is_told and (says_failure(document) or _has_failure_code(document))


def _told(document: Object) -> str | None:
    text = text_of(document)
    if text is None and not ("type" in document or "object" in document) and says_failure(document):
        insides = [value for name in CONTENTS if (value := document.get(name)) and not _is_failed(value)]
        insides += [one.get(name) for one in insides if isinstance(one, dict) for name in _ERRORS]
        text = next(filter(None, (text_of(one, names=(*TEXT_NAMES, "text")) for one in insides)), None)
    return text


def _has_failure_code(document: Object) -> bool:
    has_status = any(name in document and _http_status(document[name]) for name in _STATUSES)
    return has_status or any(name in document and not is_success(document[name]) for name in _ENVELOPE_CODES)


def _is_failed(state: Any) -> bool:
    return isinstance(state, str) and state.strip().lower() in _FAILED


def says_failure(document: Any) -> bool:
    """Whether a reply states that it failed, even if it also holds what was asked for."""
    if not isinstance(document, dict):
        return False
    if any(_is_failed(document.get(name)) for name in _STATES):
        return True
    if any(name in document and document[name] in _NO for name in ("success", "ok")) or document.get("isError") is True:
        return True
    return is_failure(document.get("error")) or any(_http_status(document.get(name)) for name in ("code", "errcode"))


def is_failure(error: Any) -> bool:
    """Whether the value of a member that is named like an error is one: not 0, "success", or `{"code": 0, …}`."""
    if isinstance(error, dict) and any(name in error for name in _ENVELOPE_CODES):
        return _has_failure_code(error)
    return bool(error) and (isinstance(error, dict) or (isinstance(error, str) and not is_success(error)))


def reason_of(document: Any) -> str | None:
    """Return the words of an event that is no part of an answer; None for one without any, such as a ping."""
    return text_of(document) or (compact(document) if says_failure(document) else None)


def text_of(value: Any, depth: int = 0, names: Iterable[str] = TEXT_NAMES) -> str | None:
    """Return the text of `value`, which may be a text, a list or an object with one of `names`; None without one."""
    if isinstance(value, str):
        return value.strip() or None
    if depth > _DEEPEST:
        return None
    if isinstance(value, list):
        return "; ".join(filter(None, (text_of(item, depth + 1, names) for item in value[:ISSUES]))) or None
    if isinstance(value, dict):
        names = ("value",) if value.keys() == {"lang", "value"} else names  # OData
        text = next(filter(None, (text_of(value.get(name), depth + 1, names) for name in names)), None)
        place = path_of_loc(value.get("loc"), full=True)
        return f"{place}: {text}" if text and place else text
    return None


def path_of_loc(loc: Any, *, full: bool = False) -> str | None:
    """Return pydantic's `loc`, a list or a dotted text, as a dotted path, without a leading "body" unless `full`."""
    loc = loc.split(".") if isinstance(loc, str) else loc
    if not isinstance(loc, list):
        return None
    steps = [str(step) for step in loc[:20] if isinstance(step, str) or whole_number(step) is not None]
    if not full and steps[:1] == ["body"]:
        steps = steps[1:]
    return ".".join(steps) or None


def error_kind(status: int) -> str:
    """Return the `type` of OpenAI's error object for `status`."""
    return KIND_OF_STATUS.get(status) or ("invalid_request_error" if status < 500 else "server_error")


def whole_number(value: Any) -> int | None:
    """Return `value` if it is a small integer, as a number or as text; else None."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 12:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12:
        return value
    return None


def is_error(status: int) -> bool:
    """Whether a final status rejects the request, including one above 599."""
    return status >= 400


def is_http_error(number: int | None) -> bool:
    return number is not None and 400 <= number <= 599


def ragflow_status(code: Any, text: str) -> int | None:
    """Return the HTTP status for RAGFlow's `{"code": …, "message": …}`; None for an unknown code."""
    number = whole_number(code)
    # RAGFlow has one code for every fault of a request, so only the text shows which one it is
    if number == 102 and any(words in text.lower() for words in RAGFLOW_ABSENT):
        return 404
    if number in _OF_ANY_FAULT and (re.search(_LIMITED, text) or re.search(_EXHAUSTED, text)):
        return 429
    return None if number is None else RAGFLOW_STATUS.get(number)


def is_success(code: Any) -> bool:
    """Whether an envelope's `code` means success: 0, 2xx, 20000, "000000", "success", 操作成功, or None."""
    number = whole_number(code)
    if number is not None:
        return number == 0 or 200 <= number <= 299 or number in (20_000, 200_000)
    if isinstance(code, str):
        return (
            code.strip().lower() in ("", "ok", "success", "succeed", "succeeded")
            or re.match(_SUCCEEDED, code) is not None
        )
    return True


READ_CHARS, CUT_CHARS = 64 * 1024, 32 * 1024
"""Of a longer text the beginning is masked, without its end, where a secret may be cut."""


def clean(text: str, mask: Mask, limit_chars: int = MESSAGE_CHARS) -> str:
    """Return `text` without secrets, control characters and runs of blanks, at most `limit_chars` long."""
    # masked first, because the mask does not find a secret that was cut
    text = mask(text) if len(text) <= READ_CHARS else mask(text[:READ_CHARS])[:-CUT_CHARS]
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = re.sub(CONTROL, " ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub(_LINES, lambda run: "\n\n" if run[0].count("\n") > 1 else "\n", re.sub(_BLANKS, " ", text)).strip()
    return text if len(text) <= limit_chars else text[: limit_chars - 1].rstrip() + "…"


def before_trace(text: str) -> str:
    """Return the reason in a text with a stack trace: what precedes its frames, or the line of the exception."""
    frame = _TRACE.search(text, 0, TRACE_CHARS)
    if frame is None:
        return text
    reason = re.sub(rf"(?: in| at|,) \S{{1,200}}{_FILE}\S*", "", text[: frame.start()]).strip()
    if not reason and frame[0].lstrip().startswith(("Traceback", "File")):
        reason = text.rstrip().rpartition("\n")[2]
    elif not reason and (thrown := _THROWN.search(text)):
        reason = thrown[0]
    return reason if reason and not _TRACE.search(reason) else "The upstream sent a stack trace."


def compact(value: Any) -> str | None:
    """Return `value` as one line of JSON; None if it cannot be encoded."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError):
        return None


def quotable(value: Any, mask: Mask) -> Any:
    """Return `value` with each text masked and without control characters.

    None if its JSON exceeds RAW_BYTES or RAW_DEPTH levels.
    """
    text = compact(value)
    if text is None or len(text.encode("utf-8", "replace")) > RAW_BYTES:
        return None
    try:
        return _masked(value, mask, RAW_DEPTH)
    except RecursionError:
        return None


PUBLIC_BYTES = 128 * 1024
"""A larger error is not relayed unchanged, because to search it for secrets would take too long."""


def public_object(body: bytes, mask: Mask) -> dict[str, Any] | None:
    """Return the JSON object in `body`, the bytes of which a client may receive.

    None for other JSON, and if a text contains a secret or a control character, at any place where a parser may find
    it: a name that occurs twice in an object may hide one.
    """
    if len(body) > PUBLIC_BYTES:
        return None
    try:
        text = body.decode()
        # `int` rejects NaN and Infinity, which are not JSON
        document = json.loads(text, object_pairs_hook=_with_each_name_once, parse_constant=int)
        is_public = isinstance(document, dict) and mask(text) == text
        return document if is_public and _masked(document, mask, RAW_DEPTH) == document else None
    except (ValueError, RecursionError):
        return None


def _with_each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _masked(value: Any, mask: Mask, depth: int) -> Any:
    """Raise RecursionError below `depth`, because the limit of the interpreter differs from version to version."""
    if depth < 0:
        raise RecursionError
    if isinstance(value, str):
        return re.sub(CONTROL, " ", mask(value).encode("utf-8", "replace").decode("utf-8"))
    if isinstance(value, list):
        return [_masked(item, mask, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_masked(name, mask, depth): _masked(item, mask, depth - 1) for name, item in value.items()}
    return value
