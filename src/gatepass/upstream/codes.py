"""What an error's own words imply as an HTTP status: data, from documents and measurements."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gatepass.lexicon import OVER_QUOTA, REFUSED_CONTENT, TOO_LONG

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
