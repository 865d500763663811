"""Recognize the content of a body by its first bytes: HTML, events or JSON; and parse JSON of any size.

The content type is often wrong. Streams arrive as application/json or text/plain, JSON as text/event-stream, and login
pages as either. So it decides only if the first bytes do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from html import unescape
from http import HTTPStatus
from typing import Any

import msgspec

from gatepass.errors import sentence
from gatepass.json_body import BOM, OBJECT, decoded, json_value, lenient_value
from gatepass.replies import error_body
from gatepass.types import Headers, Hidden, header

BLANKS = b" \t\r\n"
WHOLE_BYTES = 256 * 1024
"""A larger document is not only an error, so only its MEMBERS are read, and only those up to MEMBER_BYTES."""
MOST_FINITE_BYTES = 16 * 1024 * 1024
"""Up to this size NaN and Infinity are replaced for the parser: the copies take 20 ms."""
LENIENT_BYTES = 1024 * 1024
"""The largest document for the parser of the standard library."""
MEMBER_BYTES = 64 * 1024
SEARCHED_PAGE_BYTES = 16 * 1024
"""How much of an HTML page is searched for its id."""
READ_CHARS, READ_TAGS = 4000, 1000
"""Where `visible_text` stops."""
TITLE_CHARS, PAGE_TEXT_CHARS, WORDS_CHARS = 100, 1000, 200

_TAG = re.compile(rb"<(?:!|[a-z][a-z0-9]*[\s>/])")
_TITLE = r"(?i)<title[^<>]{0,200}>([^<]{0,2000})</title"
_LOGIN_PAGE = (
    r"""(?i)type\s{0,5}=\s{0,5}["']?password\b|\bSAMLRequest\b|<title[^<>]{0,200}>[^<]{0,200}(?:\bsso\b|登[录錄陆陸])"""
    r"|(?:<title[^<>]{0,200}>|\bplease\b|\bmust\b|\bsession\b)[^<>]{0,40}\b(?:sign|log)[ -]?(?:in|on)\b"
    r"|[请請未][^<>]{0,10}登[录錄陆陸]"
)
"""A field for a password, a form of SAML, or words that ask for a login."""
_SUPPORT_ID = (
    r"(?i)(?:\b(?:support|incident|event|ref(?:erence)?|ray|attack|trac(?:e|king)|case|ticket|transaction"
    r"|correlation|block|message|log)[ _-]{0,2}(?:id|number|no|code|a)?\b"
    r"|\b(?:error|request)[ _-]{0,2}(?:id|number|no|code)\b|(?:支持|事件|请求|拦截|参考|追踪) ?(?:id|编号|号码?|码))"
    r"[^\w]{0,12}+(?:is\b|是|为)?+[^\w]{0,6}+(?![a-z][\w.-]{0,60}+/v?\d{1,4}+(?:\.|(?![\w:=/+-])))"
    r"((?=\S{0,60}\d)[0-9A-Za-z][\w.:=/+-]{5,79})(?![\w.:=/+-])"
)
"""What is called an id in a page. A bare "error" or "request" is followed by any word, and NAME/VERSION is a server."""
_CHARSET = (
    r"(?i)charset[=\s\"']{1,9}(?:(gb)(?:k|2312|18030)"
    r"|(big5|shift_jis|euc-jp|euc-kr|windows-125[0-8]|iso-8859-[1-9]))\b"
)
_MARKUP = re.compile(
    r"(?is)<(?:!--(?:-?>|.*?--!?>)|(?:!(?!--)|\?|/(?![a-z]))[^>]*+>|(?![a-z/!?])"
    r"""|(/?)([a-z][^\s/>]*+)((?:[^>"']++|"[^"]*+"|'[^']*+')*+)>)"""
)
"""A comment, a declaration, a `<` of the text or a tag. It does not match what breaks off."""
_RAW = frozenset(("script", "style", "textarea", "title", "iframe", "noembed", "noframes", "xmp"))
"""Elements that contain no tags."""
_UNREAD = frozenset(("head", "form", "template", "noscript", "svg", "select", "object", "address"))
"""Elements that a browser does not show, what a person fills in, and Apache's signature."""
_INLINE = _RAW | {"a", "abbr", "b", "code", "em", "font", "i", "small", "span", "strong", "sup", "tt", "u", "wbr"}
"""Elements that end no line."""
_HIDDEN = r"(?i)\shidden(?=[\s=/]|\Z)|\bstyle\s*=.{0,99}?(?:display|visibility)\s*:\s*(?:none|hidden)"
_PHRASES = " ".join(status.phrase for status in HTTPStatus if status >= 400 and status.name != "IM_A_TEAPOT").lower()
_NO_REASONS = frozenset(
    re.findall(
        r"[^\W\d_]+",
        f"{_PHRASES} http https status error errors code page oops temporarily authorization time out entity"
        " payload nginx openresty apache haproxy squid tinyproxy envoy varnish kong cloudflare cloudfront akamai tomcat"
        " jetty iis traefik caddy 错误 出错了",
    )
)
"""Words of a title or a line that repeat the status or name a product."""
_OBJECTS = re.compile(rb"\[[ \t\r\n]*\{")
_FIELD_NAMES = (b"data", b"event", b"id", b"retry")
FIELDS = (*(name + b":" for name in _FIELD_NAMES), b":")

MEMBERS = ("choices", "data", *(name for name in error_body.MEMBERS if not name.startswith("__")))
"""The members that distinguish an error from a success, of a large document. msgspec finds none like `__type`."""

CHOICE = ("message", "text", "delta", "error", "finish_reason")


def _unread(name: str, members: Iterable[str]) -> type[msgspec.Struct]:
    """Return a type that finds only `members` of an object, without parsing them."""
    return msgspec.defstruct(name, [(member, msgspec.Raw, msgspec.Raw()) for member in members])


_ENVELOPE: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_unread("Envelope", MEMBERS))

_CHOICES: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    msgspec.defstruct(
        "Choices", [("first", _unread("Choice", CHOICE)), ("second", msgspec.Raw, msgspec.Raw())], array_like=True
    )
)
"""Finds the first two entries of a list. The others are skipped, so that millions of them take no memory."""


def content_type(headers: Headers) -> str:
    """Return the media type in lower case without parameters; of several, text/event-stream (RAGFlow sends two)."""
    kinds = [
        value.split(b";")[0].strip().lower().decode("latin-1") for name, value in headers if name == b"content-type"
    ]
    return "text/event-stream" if "text/event-stream" in kinds else next(iter(kinds), "")


def first_bytes(body: bytes) -> bytes:
    """Return the first bytes after a byte order mark and blanks."""
    return body[:WHOLE_BYTES].removeprefix(BOM).lstrip(BLANKS)[:1024]


def is_blank(body: bytes) -> bool:
    """Whether `body` is blank, or begins with WHOLE_BYTES of blanks."""
    return not first_bytes(body)


def is_html(headers: Headers, body: bytes) -> bool:
    """Whether `body` is an HTML page. JSON labelled text/html, which small forwarders send, is not."""
    start, kind = first_bytes(body).lower(), content_type(headers)
    if start[:1] in (b"{", b"["):
        return False
    if b"<html" in start or b"<!doctype html" in start:
        return True
    if start.startswith(b"<?xml") or "xml" in kind:
        return False
    return _TAG.match(start) is not None or (kind == "text/html" and b"<" in start)


def is_login_page(page: bytes) -> bool:
    return re.search(_LOGIN_PAGE, decoded(page[:WHOLE_BYTES])) is not None


def words(body: bytes) -> str:
    """Return the text of `body`, "" if it is no text: a third of its beginning cannot be shown."""
    text = decoded(body)
    start = text[: error_body.MESSAGE_CHARS]
    odd = sum(char == "\ufffd" or not (char.isprintable() or char.isspace()) for char in start)
    return "" if 3 * odd > len(start) else text


def title_of(page: str) -> str | None:
    found = re.search(_TITLE, page)
    return found[1] if found and found[1].strip() else None


class Page(Hidden, msgspec.Struct, frozen=True):
    """What an HTML page says, masked: its title, and its text with a line for each block that gives a reason."""

    title: str
    text: str
    has_form: bool

    @property
    def words(self) -> str:
        """The beginning of the text for a client, if the title gives no reason; "" of a page with a form.

        With two digits in a row at most, because RAGFlow retries an error with 429 in its text.
        """
        if self.has_form or not says_nothing(self.title):
            return ""
        text = " ".join(error_body.before_trace(self.text).split())
        return error_body.clean(re.sub(r"\d{3,}", "…", text), str, WORDS_CHARS)

    def added_to(self, cause: str) -> str:
        """Return the `cause` of an error with `words`."""
        return f"{sentence(cause)} It says: {self.words}" if self.words else cause

    @property
    def detail(self) -> str:
        """The text for an operator (`GatepassError.detail`), "" if the client receives all of it."""
        return f"The page says: {self.text}" if self.text.replace("\n", " ") != self.words else ""


def read_page(headers: Headers, body: bytes, mask: error_body.Mask) -> Page:
    if len(body) > WHOLE_BYTES:
        body = body[:WHOLE_BYTES] + b"<a"  # broken off: its last word may be the beginning of a secret
    kind = (header(headers, b"content-type") or b"") + b" " + body[:1024]
    page, charset = decoded(body), re.search(_CHARSET, kind.decode("latin-1"))
    if charset is not None and "\ufffd" in page:
        page = body.decode("gb18030" if charset[1] else charset[2], "replace")
    # masked first, because `unescape` makes a similar character of `&hyphen;`
    title = error_body.clean(unescape(mask(title_of(page) or "")), mask, TITLE_CHARS)
    shown = "".join(
        char
        for char in unescape(mask(visible_text(page)))
        if char not in "<>" and (char.isprintable() or char.isspace())  # a soft hyphen would hide a secret
    )
    shown = mask(shown)
    joined = "".join(map(str.strip, shown.split("\n")))
    if mask(joined) != joined:  # a secret in several blocks
        shown = ""
    lines = dict.fromkeys(" ".join(map(_without_query, line.split())) for line in shown.split("\n"))
    text = "\n".join(sentence(line) for line in lines if line != title and not says_nothing(line))
    has_form = re.search(r"(?i)<(?:form|input)\b", page) is not None
    return Page(title, error_body.clean(text, mask, PAGE_TEXT_CHARS), has_form)


def _without_query(word: str) -> str:
    place = re.split(r"[?#;]", word, maxsplit=1)[0]
    return place if "/" in place or "=" in word else word


def visible_text(page: str) -> str:
    """Return what a browser shows of `page` besides forms, with a line for each block and entities as they are.

    It ends where the markup breaks off, and after READ_CHARS of text or READ_TAGS. Takes linear time.
    """
    parts, size, at, hidden, depth, is_whole = list[str](), 0, 0, "", 0, False
    has_head_end = re.search(r"(?i)</head|<body", page) is not None
    for _ in range(READ_TAGS):
        begin = page.find("<", at)
        if not hidden:
            parts.append(re.sub(r"\s+", " ", page[at:] if begin < 0 else page[at:begin]))
            size += len(parts[-1])
        tag = None if begin < 0 or size > READ_CHARS else _MARKUP.match(page, begin)
        if tag is None:
            is_whole = begin < 0 and size <= READ_CHARS
            break
        at, name, is_end = tag.end(), (tag[2] or "").lower(), tag[1] == "/"
        if name in _RAW and not is_end:
            end = re.compile(rf"(?i)</{name}").search(page, at)
            at = len(page) if end is None else end.start()
        elif hidden:
            depth += 0 if name != hidden else -1 if is_end else 1
            hidden = "" if not depth or (hidden == "head" and name == "body") else hidden
        elif not is_end and (name in _UNREAD or (name != "input" and re.search(_HIDDEN, (tag[3] or "")[:200]))):
            hidden, depth = "" if name == "head" and not has_head_end else name, 1
        elif name and name not in _INLINE:
            parts.append("\n")
    text = "".join(parts)
    # the beginning of a secret would not be masked
    return text if is_whole else text[:READ_CHARS].rpartition(" ")[0]


def says_nothing(line: str) -> bool:
    """Whether a title or a line of a page has no word beyond a status, a product, a host and `error`."""
    named = r"(?<!\S)[^\s/]{1,100}/\d\S*|(?<![\w.-])[a-z\d-]{1,99}(?:\.[a-z\d-]{1,99})+"
    return _NO_REASONS.issuperset(re.findall(r"[^\W\d_]+", re.sub(named, " ", line.lower()[:READ_CHARS])))


def support_id(text: str) -> str:
    """Return the id in a page or a URL by which the owner of a filter finds the request it refused, "" without one."""
    found = re.search(_SUPPORT_ID, " ".join(unescape(re.sub("<[^<>]*>", " ", text)).split()))
    return found[1].rstrip(".:/") if found else ""


def is_event_stream(headers: Headers, body: bytes) -> bool:
    """Whether the whole `body` is an event stream, by its first bytes or else by its content type."""
    return content_kind(body, content_type(headers).encode()) is ContentKind.STREAM


def parse(body: bytes) -> Any:
    """Parse the JSON document in `body`; raise ValueError if it is not JSON.

    A byte order mark is ignored. Up to LENIENT_BYTES the parser accepts what Python writes but JSON forbids (NaN, a
    lone surrogate), and replaces bytes that are not UTF-8. Only MEMBERS of a document above WHOLE_BYTES are parsed, so
    that memory is bounded. A member above MEMBER_BYTES becomes a placeholder of its kind.
    """
    body = body.removeprefix(BOM)
    try:
        return json_value(body) if len(body) <= WHOLE_BYTES else _parse_large(body)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError as strict:
        return _parse_leniently(body, str(strict))


def _parse_large(body: bytes) -> dict[str, Any]:
    found = _ENVELOPE.decode(body)
    document, choices = _read_members(found, MEMBERS), memoryview(found.choices)
    if choices.nbytes > MEMBER_BYTES and _has_objects(choices):
        listed = _CHOICES.decode(choices)
        first = _read_members(listed.first, CHOICE)
        document["choices"] = [first, {}] if memoryview(listed.second).nbytes else [first]
    return document


def _read_members(found: Any, members: Iterable[str]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name in members:
        raw = memoryview(getattr(found, name))
        if raw.nbytes > MEMBER_BYTES:
            placeholders: dict[bytes, Any] = {b"[": [{} if _has_objects(raw) else None], b"{": {"message": "…"}}
            held[name] = placeholders.get(bytes(raw[:1]), "…")
        elif raw.nbytes:
            try:
                held[name] = json_value(bytes(raw))
            except ValueError as strict:
                held[name] = _parse_leniently(bytes(raw), str(strict))
    return held


def _parse_leniently(body: bytes, reason: str) -> Any:
    # not the strict parser's error: its traceback would hold this frame and `body` until a garbage collection
    if WHOLE_BYTES < len(body) <= MOST_FINITE_BYTES and (b"NaN" in body or b"Infinity" in body):
        # usually in a member that is not parsed; only this copy changes, the reply is relayed unchanged
        with suppress(ValueError, RecursionError):
            return _parse_large(body.replace(b"NaN", b"0.0").replace(b"Infinity", b"0.000000"))
    if len(body) > LENIENT_BYTES:
        raise ValueError(reason)
    try:
        return lenient_value(body, "replace")  # a reply with a damaged text is relayed unchanged
    except ValueError:
        raise ValueError(reason) from None


def member(body: bytes, name: str) -> bytes | None:
    """Return the unchanged bytes of the top-level member `name` of a JSON object; None without one."""
    try:
        found = OBJECT.decode(body.removeprefix(BOM)).get(name)
    except (ValueError, RecursionError):
        return None
    return None if found is None else bytes(found)


def _has_objects(raw: memoryview) -> bool:
    return _OBJECTS.match(raw) is not None


def first_event(body: bytes) -> bytes | None:
    """Return the data of the first event with data in a body of events, such as `data: {"error": …}`."""
    for line in body[:WHOLE_BYTES].removeprefix(BOM).splitlines():
        if line.startswith(b"data:") and (data := line[5:].strip()):
            return data
    return None


MAX_BLANK_BYTES = 1024
"""Limit of white space before the content. DeepSeek sends empty lines as a keep-alive before JSON (its rate limit
page)."""
SEARCHED_BYTES = MAX_BLANK_BYTES + 16
"""The white space, and the name of a field with its colon."""

_FIELD = re.compile(rb":|(?:%b)[:\r\n]" % b"|".join(_FIELD_NAMES))


class ContentKind(StrEnum):
    """The kind of a body. DOCUMENT: a JSON parser decides whether it is valid. HTML: any markup."""

    UNDECIDED = "undecided"
    STREAM = "stream"
    DOCUMENT = "document"
    HTML = "html"


def content_kind(beginning: bytes, content_type: bytes | None) -> ContentKind:
    """Return the kind of a body by its first bytes, or else by its content type.

    UNDECIDED: call it again when more of the body has arrived. This ends after MAX_BLANK_BYTES of white space.
    """
    start = beginning[:SEARCHED_BYTES].removeprefix(BOM).lstrip()
    if start[:1] in (b"{", b"["):
        return ContentKind.DOCUMENT
    if start[:1] == b"<":
        return ContentKind.HTML
    if _FIELD.match(start):
        return ContentKind.STREAM
    if start:
        may_become_field = any(name.startswith(start) for name in _FIELD_NAMES) or BOM.startswith(start)
        is_undecided = may_become_field and len(beginning) <= SEARCHED_BYTES
    else:
        is_undecided = len(beginning) <= MAX_BLANK_BYTES
    if is_undecided:
        return ContentKind.UNDECIDED
    media_type = (content_type or b"").partition(b";")[0].strip().lower()
    if media_type == b"text/event-stream":
        return ContentKind.STREAM
    is_markup = media_type in (b"text/html", b"application/xhtml+xml")
    return ContentKind.HTML if is_markup else ContentKind.DOCUMENT
