"""Is a reply what it claims to be? Pure: status, headers and bytes in, an error or None out.

A 200 may be an error, a login page, nothing at all, or a stream that is none; today's SDKs turn each
of these into an empty answer without an exception.

What an upstream says about a repeat: whether one is welcome, and after how long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from html import unescape
from http import HTTPStatus
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from gatepass.dialects import content
from gatepass.dialects.error_body import Mask, clean, is_http_error, kind_of, read_error_body, unmasked
from gatepass.dialects.hints import HINTS, Hint, with_hint
from gatepass.errors import (
    GatepassError,
    UpstreamAuth,
    UpstreamEmpty,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamInvalid,
    UpstreamRedirect,
)
from gatepass.types import ClientProtocol, Headers, UpstreamErrorBody, header

_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?\Z")
_PART = (
    r"(\d{1,9}(?:\.\d{1,12})?)\s*(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
_DURATION = re.compile(rf"(?:{_PART}\s*)+\Z", re.IGNORECASE)
_IN_TEXT = re.compile(rf"(?:retry|try again)\s+(?:after|in)\s+((?:{_PART}\s*)+)", re.IGNORECASE)
_EACH = re.compile(_PART, re.IGNORECASE)
_UNIT_S: Mapping[str, float] = MappingProxyType({"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0})
EPOCH_S, EPOCH_MS = 1e9, 1e12
"""A number from here on is a moment, not a time to wait."""


def should_retry(headers: Headers) -> bool | None:
    """What `x-should-retry` says, which the openai SDKs obey for any status; None if it says neither."""
    return _SHOULD_RETRY.get((header(headers, b"x-should-retry") or b"").strip().lower())


_SHOULD_RETRY: Mapping[bytes, bool] = MappingProxyType({b"true": True, b"false": False})


def retry_after_s(status: int, headers: Headers, text: str, wall_s: float) -> float | None:
    """Seconds to wait before the next try, or None where the upstream names no time.

    In this order: `retry-after-ms`, `retry-after` (seconds or a date, so `wall_s` is needed), the
    error's own text ("Please retry after 86400 seconds", "try again in 6m0s"), and for a 429
    `x-ratelimit-reset…` of what is used up (OpenAI and Groq write `6m0s`, others seconds or an epoch).
    The last two are not read where the upstream forbids a repeat: no time is worth waiting for.
    """
    number = _number(header(headers, b"retry-after-ms"))
    told = None if number is None else number / 1000
    if told is None:
        told = _seconds_or_date(header(headers, b"retry-after"), wall_s)
    if told is None and should_retry(headers) is False:
        return None
    if told is None and (status in (408, 409, 425, 429) or status >= 500):
        found = _IN_TEXT.search(text)
        told = _sum_s(found[1]) if found else None
    if told is None and status == 429:
        told = _from_limits(headers, wall_s)
    return told


def _seconds_or_date(value: bytes | None, wall_s: float) -> float | None:
    number = _number(value)
    if number is not None or value is None:
        return number
    try:
        return max(0.0, parsedate_to_datetime(value.decode("latin-1")).timestamp() - wall_s)
    except (ValueError, OverflowError):
        return None


def _number(value: bytes | None) -> float | None:
    text = (value or b"").decode("latin-1").strip()
    return float(text) if text.isascii() and _NUMBER.match(text) else None


def _sum_s(duration: str) -> float:
    total_s = 0.0
    for number, unit in _EACH.findall(duration.lower()):
        is_milli = unit == "ms" or unit.startswith("milli")
        total_s += float(number) * (0.001 if is_milli else _UNIT_S[unit[0]])
    return total_s


def _from_limits(headers: Headers, wall_s: float) -> float | None:
    """The longest reset of a limit that is used up; of a lone `x-ratelimit-reset` otherwise."""
    spent = [
        _reset(header(headers, b"x-ratelimit-reset-" + what), wall_s)
        for what in (b"requests", b"tokens")
        if header(headers, b"x-ratelimit-remaining-" + what) == b"0"
    ]
    waits = [wait for wait in spent if wait is not None]
    return max(waits) if waits else _reset(header(headers, b"x-ratelimit-reset"), wall_s)


def _reset(value: bytes | None, wall_s: float) -> float | None:
    number = _number(value)
    if number is None:
        text = (value or b"").decode("latin-1").strip()
        return _sum_s(text) if _DURATION.match(text) else None
    if number < EPOCH_S:
        return number
    return max(0.0, (number / 1000 if number >= EPOCH_MS else number) - wall_s)


EXCERPT_CHARS = 500
TITLE_CHARS = 100


class ReceivedReply(msgspec.Struct, frozen=True):
    """A reply held whole (`body` may be cut), who sent it, and when `wall_s` it came."""

    upstream: str
    status: int
    headers: Headers
    body: bytes = b""
    host: str = ""
    wall_s: float = 0.0
    mask: Mask = unmasked
    hints: tuple[Hint, ...] = HINTS
    """The advice that there is for what this upstream says."""
    has_credential: bool = True
    """Whether the request that it answers was sent with a credential's token."""

    @property
    def sender(self) -> str:
        return f'The upstream "{self.upstream}"' + (f" ({self.host})" if self.host else "")

    @property
    def answered(self) -> str:
        """`The upstream "chat" (host) answered 503 Service Unavailable`"""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        return f"{self.sender} answered {self.status} {phrase}".rstrip()

    @property
    def excerpt(self) -> str:
        """The beginning of a body that is neither JSON nor a page."""
        text = clean(self.body.decode("utf-8", "replace"), self.mask, EXCERPT_CHARS)
        return text or f"{self.answered} with a body without a text."

    @property
    def page(self) -> str:
        """An HTML page by its title; never the page itself."""
        title = content.title_of(self.body[: content.WHOLE_BYTES].decode("utf-8", "replace"))
        return f'an HTML page titled "{clean(unescape(title), self.mask, TITLE_CHARS)}"' if title else "an HTML page"


MEMBERS = 8
"""Names of members that are listed where a reply is not what was asked for."""

_AT_BYTE = re.compile(r" \(byte \d+\)")
"""A place such as 4291 holds a 429, for which RAGFlow would repeat what no repeat mends."""


def classify_head(
    upstream: str, status: int, headers: Headers, *, host: str = "", mask: Mask = unmasked
) -> GatepassError | None:
    """The error that a reply's head alone tells of: a redirect, or a status that is no final answer.

    None: read the body. A redirect is never followed; of its target only the host is named, for the
    rest may hold a session.
    """
    if 200 <= status <= 299 or 400 <= status <= 599:
        return None
    reply = ReceivedReply(upstream, status, headers, host=host)
    if 300 <= status <= 399:
        location = header(headers, b"location")
        target = location.decode("latin-1").strip() if location is not None else None
        message = (
            f"{reply.answered}, a redirect to {_place_of(target, mask)}: invalid as a reply,"
            f" and gatepass follows none. Check upstreams.{upstream}.base_url (https instead of http, the"
            " whole path) and whether a login page stands in front of it."
        )
        return UpstreamRedirect(message, upstream=upstream, target=target)
    return UpstreamInvalid(f"{reply.answered}, an invalid status for a final reply.", upstream=upstream)


def _place_of(target: str | None, mask: Mask) -> str:
    """What may be told of a redirect's target. The mask comes first: `hostname` is in lower case, and may be a part."""
    if target is None:
        return "nowhere (no Location)"
    try:
        host = urlsplit(mask(target)).hostname
    except ValueError:
        return "what is no URL"
    return clean(host, unmasked, TITLE_CHARS) if host else "another path of the same host"


def classify_error(reply: ReceivedReply) -> UpstreamError:
    """The error behind a status of 400 or more, in the upstream's own words where it has any.

    Its body may be cut short (64 KiB are plenty). A 401 is UpstreamAuth; an HTML page keeps its status
    and has the code `upstream_html`; a status outside 400 to 599 becomes what the words imply, or 502.
    """
    if content.is_blank(reply.body):
        return _refusal(reply, UpstreamErrorBody(f"{reply.answered} with an empty body."))
    if content.is_html(reply.headers, reply.body):
        return _refusal(reply, UpstreamErrorBody(f"{reply.answered} with {reply.page}.", code=UpstreamHtml.code))
    error_body = read_error_body(_document(reply.body), refused=True, mask=reply.mask)
    return _refusal(reply, error_body or UpstreamErrorBody(reply.excerpt))


def _document(body: bytes) -> Any:
    """The JSON of an error; DashScope was seen to send it as an event in a plain 400."""
    event = content.first_event(body) if content.first_bytes(body).startswith(content.FIELDS) else None
    try:
        return content.parse(event or body)
    except ValueError:
        return None


def _refusal(reply: ReceivedReply, error_body: UpstreamErrorBody) -> UpstreamErrorReply:
    status = reply.status if is_http_error(reply.status) else error_body.status or 502
    message = with_hint(error_body.message, reply.upstream, status, reply.hints)
    kind = error_body.kind or kind_of(status)
    if status == 401:
        lacking = "wants a credential that gatepass does not send"
        refused = "does not accept the credential that gatepass sends"
        # of a key under `upstreams.NAME.headers` nothing is known: the one that is wanted is not sent there either
        message = f"{reply.sender} {refused if reply.has_credential else lacking}: {message}"
    return (UpstreamAuth if status == 401 else UpstreamErrorReply)(
        message,
        upstream=reply.upstream,
        status=status,
        kind=kind,
        upstream_code=error_body.code,
        param=error_body.param,
        retry_after_s=retry_after_s(status, reply.headers, error_body.message, reply.wall_s),
        raw=error_body.raw,
        error_body=error_body,
    )


def classify_document(reply: ReceivedReply, protocol: ClientProtocol) -> bytes | GatepassError:
    """The document that a whole reply of status 200 to 299 is, or the error that it really is.

    The very same bytes come back, unless the answer was wrapped: then what was inside. Two fast paths answer this
    question for most replies, each with a property test against this one: `relay.whole.strict.read_good` for
    chats, `adapt.embeddings_reply.is_right` for vectors.
    """
    body = reply.body
    if content.is_blank(body):
        return UpstreamEmpty(f"{reply.answered} with an empty body.", upstream=reply.upstream)
    if content.is_html(reply.headers, body):
        message = (
            f"{reply.answered} with {reply.page} instead of JSON, which is invalid as a reply: a login page or"
            f" a portal stands in front of it. Check upstreams.{reply.upstream}.base_url and its credential."
        )
        return UpstreamHtml(message, upstream=reply.upstream)
    if content.is_event_stream(reply.headers, body):
        event = content.first_event(body)
        error_body = None if event is None else read_error_body(_document(event), mask=reply.mask)
        if error_body is not None:
            return _refusal(reply, error_body)
        return _invalid(reply, "with a stream of events, which is no answer to this request")
    return _judge_json(reply, protocol)


def _judge_json(
    reply: ReceivedReply, protocol: ClientProtocol, *, may_be_wrapped: bool = True
) -> bytes | GatepassError:
    try:
        document = content.parse(reply.body)
    except ValueError as error:
        reason = _AT_BYTE.sub("", str(error))
        return _invalid(reply, f"with what is no JSON, or was cut short ({reason})")
    # a response that was asked for by its id: an `error` in it is that of the request that made it, and what was wanted
    is_kept = protocol is ClientProtocol.RAW and isinstance(document, dict) and document.get("object") == "response"
    error_body = None if is_kept else read_error_body(document, mask=reply.mask)
    error_body = error_body or _complaint_of_choices(document, protocol, reply.mask)
    if error_body is not None:
        return _refusal(reply, error_body)
    if may_be_wrapped and (inside := _unwrapped(document, reply.body, protocol)) is not None:
        return _judge_json(replace(reply, body=inside), protocol, may_be_wrapped=False)
    fault = _fault_of_shape(document, protocol, reply.mask)
    if fault is None and protocol is ClientProtocol.CHAT:
        fault = _fault_of_choice(next(iter(document["choices"]), None))
    if fault is not None:
        return _invalid(reply, fault)
    missing = _EMPTY.get(protocol)
    if missing is not None and not document[_WANTED[protocol]]:
        return UpstreamEmpty(f"{reply.answered} without a {missing}.", upstream=reply.upstream)
    return reply.body


_WANTED: Mapping[ClientProtocol, str] = MappingProxyType(
    {ClientProtocol.CHAT: "choices", ClientProtocol.EMBEDDINGS: "data"}
)
_EMPTY: Mapping[ClientProtocol, str] = MappingProxyType(
    {ClientProtocol.CHAT: "choice", ClientProtocol.EMBEDDINGS: "vector"}
)


def _unwrapped(document: Any, body: bytes, protocol: ClientProtocol) -> bytes | None:
    """The answer inside `{"code": 0, "data": {…}}`, in which corporate gateways put it; None where there is none."""
    wanted = _WANTED.get(protocol)
    inside = document.get("data") if isinstance(document, dict) else None
    if wanted is None or not isinstance(inside, dict) or isinstance(document.get(wanted), list):
        return None
    return (
        content.member(body, "data")
        if len(body) > content.WHOLE_BYTES or isinstance(inside.get(wanted), list)
        else None
    )


def _fault_of_shape(document: Any, protocol: ClientProtocol, mask: Mask) -> str | None:
    wanted = _WANTED.get(protocol)
    if wanted is None and protocol is not ClientProtocol.RESPONSES:
        return None if isinstance(document, dict | list) else "with JSON that is neither an object nor a list"
    if not isinstance(document, dict):
        return "with JSON that is no object"
    if wanted is None:
        is_response = document.get("object") == "response" or "output" in document
        return None if is_response else f"with JSON that is no response ({_members(document, mask)})"
    entries = document.get(wanted)
    if not isinstance(entries, list):
        return f'with JSON that has no list "{wanted}" ({_members(document, mask)})'
    holds_objects = not entries or isinstance(entries[0], dict)
    return None if holds_objects else f'with a list "{wanted}" that holds no objects'


def _complaint_of_choices(document: Any, protocol: ClientProtocol, mask: Mask) -> UpstreamErrorBody | None:
    """The error in a chat's choices, where OpenRouter puts a provider's; of several choices one may be good."""
    choices = document.get("choices") if protocol is ClientProtocol.CHAT and isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices:
        return None
    if not all(isinstance(choice, dict) and choice.get("error") for choice in choices):
        return None
    return read_error_body({"error": choices[0]["error"]}, mask=mask)


def _fault_of_choice(choice: dict[str, Any] | None) -> str | None:
    """A choice that says nothing would be an empty answer to the client, and a mere piece a finished one."""
    if choice is None or (choice.get("message") and isinstance(choice["message"], dict)):
        return None
    if isinstance(choice.get("text"), str):
        return None
    if not choice.get("delta") or not isinstance(choice["delta"], dict):
        return "with a choice that has neither a message nor a text"
    return None if choice.get("finish_reason") else "with a piece of a stream in place of a whole answer"


def _members(document: dict[Any, Any], mask: Mask) -> str:
    if not document:
        return "it is empty"
    names = [clean(str(name), mask, 40) for name in list(document)[:MEMBERS]]
    return "it has " + ", ".join(names) + (", …" if len(document) > MEMBERS else "")


def _invalid(reply: ReceivedReply, what: str) -> UpstreamInvalid:
    return UpstreamInvalid(f"{reply.answered} {what}.", upstream=reply.upstream)
