"""Where in a JSON document the error is, and which of its members is the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gatepass.upstream import codes

ISSUES = 5
"""Entries of a list of errors that are quoted."""

_TEXTS = (
    *("message", "msg", "error_description", "errorMessage", "error_message", "error_msg", "errmsg"),
    *("detail", "description", "title", "reason"),
)
_ENVELOPE_CODES = ("code", "error_code", "errorCode", "errcode", "statusCode", "status_code")
_DEEPEST = 4

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """The error itself and the document around it (the same object where the error is flat)."""

    own: Any
    outer: Object


def find(document: Any, refused: bool) -> Found | None:
    """The error in `document`, or None; `refused` as in `read_complaint`."""
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
    return _flat(document, refused)


def _flat(document: Object, refused: bool) -> Any:
    detail = document.get("detail")
    if detail and (refused or not _claims_success(document)):
        return detail if isinstance(detail, dict) else document
    if _fails(document) or (refused and text_of(document)):
        return document
    return None


def _fails(document: Object) -> bool:
    """Whether an envelope's code (or `success: false`, or a problem's status) comes with a text."""
    text = text_of(document)
    if text is None or codes.is_success(text):
        return False
    if document.get("success") is False or codes.is_http_error(codes.whole_number(document.get("status"))):
        return True
    return any(not codes.is_success(document.get(name)) for name in _ENVELOPE_CODES)


def _claims_success(document: Object) -> bool:
    return any(name in document and codes.is_success(document[name]) for name in _ENVELOPE_CODES)


def text_of(value: Any, depth: int = 0) -> str | None:
    """What `value` says in words, lists and objects included, or None."""
    if isinstance(value, str):
        return value.strip() or None
    if depth > _DEEPEST:
        return None
    if isinstance(value, list):
        return "; ".join(text for text in (text_of(item, depth + 1) for item in value[:ISSUES]) if text) or None
    if isinstance(value, dict):
        return _text_of_object(value, depth + 1)
    return None


def _text_of_object(value: Object, depth: int) -> str | None:
    text = next((text for text in (text_of(value.get(name), depth) for name in _TEXTS) if text), None)
    place = place_of(value.get("loc"), full=True)
    return f"{place}: {text}" if text and place else text


def place_of(loc: Any, *, full: bool = False) -> str | None:
    """Pydantic's `loc` as a dotted path; without the leading "body" unless `full`."""
    if not isinstance(loc, list):
        return None
    steps = [str(step) for step in loc[:20] if isinstance(step, str) or codes.whole_number(step) is not None]
    if not full and steps[:1] == ["body"]:
        steps = steps[1:]
    return ".".join(steps) or None
