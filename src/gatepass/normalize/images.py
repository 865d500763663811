"""Rule "images": images that stand beside the conversation, in whatever form, go into it as `image_url` parts.

An image is never decoded or copied: a part is pieces of the client's own text with a few bytes of ours between them.
Nothing is ever fetched.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from gatepass.errors import InvalidImage
from gatepass.json_scan import Edit, JsonScanner, Member, Piece, any_of, edited, may_name, pieces, removals, string
from gatepass.types import Call, ClientProtocol, Target

HEAD_BYTES = 1024
"""As much as tells what form an image has."""
CHECKED_BYTES = 65_536
"""How much of base64 is checked at once: pieces that stay in the cache, and no second copy of an image."""

SNIFFED_CHARS = 32

_HTTP = re.compile(rb"https?://[^\s/?#]", re.IGNORECASE)
_SCHEME = re.compile(rb"([a-z][a-z0-9+.-]{1,19}):", re.IGNORECASE)
_DATA_IMAGE = re.compile(rb"data:image/[a-z0-9.+-]+(?:;[^,;\x00-\x20\x7f]*)*?;base64,", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/ \t\r\n]*+(?:=[= \t\r\n]*+)?+")
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_MIME = re.compile(r"image/[a-z0-9.+-]{1,60}", re.IGNORECASE)
_BLANK = b" \t\r\n"
_BASE64_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" + _BLANK

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), b"image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), b"image/png"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), b"image/webp"),
    (re.compile(rb"GIF8[79]a"), b"image/gif"),
)
"""What OpenAI's vision models take. BMP and the rest would be refused further on, with a worse text."""

_WANTED = "Send an http(s) URL, a data:image/…;base64 URL, or the base64 of a JPEG, PNG, WebP or GIF."
_KINDS = {"[": "an array", '"': "a string", "{": "an object", "t": "true", "f": "false", "n": "null"}


@dataclass(frozen=True, slots=True)
class ImageObject:
    """An object form of an image: the member that becomes `image_url`, its URL, and what that used up."""

    holder: Member
    url: tuple[Piece, ...]
    used: frozenset[str]


def image_part(scanner: JsonScanner, start: int, end: int, where: str) -> tuple[Piece, ...]:
    """The part for the image that stands in `walk.text` from `start` to `end`, as pieces of JSON text.

    A string: an http(s) URL, a data URL, or bare base64, whose type its first bytes tell. An object:
    `{image_url: {url}}`, `{image_url: str}`, `{url}`, `{inline_data: {mime_type, data}}`,
    `{source: {media_type, data}}`, `{blob|data, mime_type|media_type}`; `detail` goes where the API
    wants it and members that nobody knows stay. Raises InvalidImage with `where` and the reason.
    """
    text = scanner.text
    if text.startswith(b'"', start):
        return (b'{"type":"image_url","image_url":{"url":', *_url(text, start, end, where), b"}}")
    if text.startswith(b"{", start):
        return _object_part(scanner, start, end, where)
    raise refused(where, f"is {kind_at(text, start)}")


def refused(where: str, reason: str) -> InvalidImage:
    return InvalidImage(f"{where} {reason}. {_WANTED}", param=where)


def kind_at(text: bytes, at: int) -> str:
    """What kind of JSON value begins at `at`, in words."""
    return _KINDS.get(chr(text[at]), "a number")


def _object_part(scanner: JsonScanner, start: int, end: int, where: str) -> tuple[Piece, ...]:
    text, listed = scanner.text, list(scanner.members(start))
    found = {member.name: member for member in listed}
    inner = found.get("image_url")
    if inner is not None and text.startswith(b"{", inner.value):
        edits = _inner_edits(scanner, inner, where)
    else:
        edits = _form_edits(text, listed, _form(scanner, found, where))
    return tuple(pieces(text, [*edits, *_type_edits(start, found.get("type"))], start, end))


def _inner_edits(scanner: JsonScanner, inner: Member, where: str) -> list[Edit]:
    url = {member.name: member for member in scanner.members(inner.value)}.get("url")
    if url is None:
        raise refused(where, "holds an image_url without url")
    return [Edit(url.value, url.end, _string_url(scanner.text, url, where))]


def _type_edits(start: int, kind: Member | None) -> list[Edit]:
    if kind is None:
        return [Edit(start + 1, start + 1, (b'"type":"image_url",',))]
    return [Edit(kind.value, kind.end, (b'"image_url"',))]


def _form_edits(text: bytes, listed: list[Member], form: ImageObject) -> list[Edit]:
    details = [member for member in listed if member.name == "detail"]
    detail = (b',"detail":', memoryview(text)[details[-1].value : details[-1].end]) if details else ()
    new = Edit(form.holder.start, form.holder.end, (b'"image_url":{"url":', *form.url, *detail, b"}"))
    used = form.used | {"detail"}
    return [new, *removals(listed, [member for member in listed if member.name in used and member != form.holder])]


def _form(scanner: JsonScanner, found: dict[str, Member], where: str) -> ImageObject:
    text = scanner.text
    for name in ("image_url", "url"):
        if (holder := found.get(name)) is not None:
            return ImageObject(holder, _string_url(text, holder, where), frozenset((name,)))
    for name in ("inline_data", "source"):
        if (holder := found.get(name)) is not None and text.startswith(b"{", holder.value):
            inner = {member.name: member for member in scanner.members(holder.value)}
            return ImageObject(holder, _form(scanner, inner, where).url, frozenset((name,)))
    for name in ("blob", "data"):
        if (holder := found.get(name)) is not None:
            url = _string_url(text, holder, where, _declared(text, found, where))
            return ImageObject(holder, url, frozenset((name, "mime_type", "media_type")))
    raise refused(where, "is an object without image_url, url, inline_data or data")


def _declared(text: bytes, found: dict[str, Member], where: str) -> bytes | None:
    declared = found.get("mime_type") or found.get("media_type")
    if declared is None or text.startswith(b"null", declared.value):
        return None
    said = string(text[declared.value : declared.end]) if text.startswith(b'"', declared.value) else ""
    if _MIME.fullmatch(said) is None:
        raise refused(where, "has a type that is not image/…")
    return said.encode()


def _string_url(text: bytes, member: Member, where: str, mime: bytes | None = None) -> tuple[Piece, ...]:
    if not text.startswith(b'"', member.value):
        raise refused(where, f"holds {kind_at(text, member.value)} in {member.name}")
    return _url(text, member.value, member.end, where, mime)


def _url(text: bytes, start: int, end: int, where: str, mime: bytes | None = None) -> tuple[Piece, ...]:
    """The URL for the JSON string from `start` to `end`, as a JSON string; URLs stay as they are written."""
    written = memoryview(text)[start:end]
    has_escapes = text.find(b"\\", start, end) >= 0
    said = memoryview(string(bytes(written)).encode()) if has_escapes else written[1:-1]
    head = bytes(said[:HEAD_BYTES])
    if _HTTP.match(head) is not None:
        url = str(said, "utf-8", "replace")
        if any(_UNFIT.search(url, at, at + CHECKED_BYTES) for at in range(0, len(url), CHECKED_BYTES)):
            raise refused(where, "is a URL with a blank, a line break or another control character in it")
        return (written,)
    if (data_url := _DATA_IMAGE.match(head)) is not None:
        _check_base64(said[data_url.end() :], where)
        return (written,)
    if (scheme := _SCHEME.match(head)) is not None:
        raise refused(where, f"is a {scheme[1].decode().lower()}: URL, which is no image that gatepass can pass on")
    return _data_url(said, where, mime, has_escapes=has_escapes)


def _data_url(base64: memoryview, where: str, mime: bytes | None, *, has_escapes: bool) -> tuple[Piece, ...]:
    """Bare base64 as a data URL, in one line and with its padding."""
    _check_base64(base64, where)
    if has_escapes or b" " in bytes(base64[:HEAD_BYTES]):
        base64 = memoryview(bytes(base64).translate(None, _BLANK))
    mime = mime or _sniffed(bytes(base64[:SNIFFED_CHARS]))
    if mime is None:
        raise refused(where, "begins like no image that gatepass knows")
    missing = -len(base64) % 4
    if missing == 3:
        raise refused(where, "is base64 with a piece missing")
    return (b'"data:%b;base64,' % mime, base64, b"=" * missing + b'"')


def _check_base64(base64: memoryview, where: str) -> None:
    if not len(base64):
        raise refused(where, "is empty")
    for at in range(0, len(base64), CHECKED_BYTES):
        if bytes(base64[at : at + CHECKED_BYTES]).translate(None, _BASE64_BYTES):
            if _BASE64.fullmatch(base64[at:]) is None:
                raise refused(where, "is neither a URL nor base64")
            return


def _sniffed(base64: bytes) -> bytes | None:
    try:
        start = a2b_base64(base64[: len(base64) // 4 * 4])
    except Error:
        return None
    return next((mime for signature, mime in _SIGNATURES if signature.match(start)), None)


Part = tuple[Piece, ...]

WORDS = ("images",)
"""Where none of these stands in a body, the rule does not concern it."""
_WORDS = any_of(*WORDS)


@dataclass(frozen=True, slots=True)
class ScannedMessage:
    """One message: where it stands, and its members in order."""

    where: str
    listed: list[Member]

    def last(self, name: str) -> Member | None:
        return next((member for member in reversed(self.listed) if member.name == name), None)

    def named(self, name: str) -> list[Member]:
        return [member for member in self.listed if member.name == name]


class Images:
    """Moves `images` into the parts of a user message; entry `images=N`.

    The top level's go to the last user message, where RAGFlow means them to be (its `images` keyword
    reaches HTTP as a member of the body); `messages[].images`, Ollama's form, to that message. The
    text comes first, parts that are there stay, an empty `images` goes. Raises InvalidImage that
    names the index where an image is none, or where no user message can hold it.
    """

    name = "images"

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if call.operation.protocol is not ClientProtocol.CHAT or not may_name(call.body, _WORDS):
            return call
        count, edits = _moves(call.body)
        if not edits:
            return call
        return replace(call, body=edited(call.body, edits), adapted=(*call.adapted, f"images={count}"))


def _moves(body: bytes) -> tuple[int, list[Edit]]:
    """How many images move, and the edits that move them."""
    scanner = JsonScanner(body)
    top = ScannedMessage("", list(scanner.members()))
    turns = _turns(scanner, top.last("messages"))
    loose = _images(scanner, top, "images")
    host = _last_user(body, turns) if loose else None
    count, edits = len(loose), removals(top.listed, top.named("images"))
    for message in turns:
        own = _own_images(scanner, message)
        count += len(own)
        edits += _turn_edits(scanner, message, [*own, *loose] if message is host else own)
    return count, edits


def _turns(scanner: JsonScanner, messages: Member | None) -> list[ScannedMessage]:
    """The messages that are objects; what else stands there is the upstream's to refuse."""
    if messages is None or not scanner.text.startswith(b"[", messages.value):
        return []
    return [
        ScannedMessage(f"messages[{index}]", list(scanner.members(start)))
        for index, (start, _) in enumerate(scanner.elements(messages.value))
        if scanner.text.startswith(b"{", start)
    ]


def _last_user(body: bytes, turns: Sequence[ScannedMessage]) -> ScannedMessage:
    for message in reversed(turns):
        if _is_user(body, message):
            return message
    raise InvalidImage("images has no user message to go to: `messages` holds none.", param="images")


def _is_user(body: bytes, message: ScannedMessage) -> bool:
    role = message.last("role")
    return role is not None and body.startswith(b'"', role.value) and string(body[role.value : role.end]) == "user"


def _own_images(scanner: JsonScanner, message: ScannedMessage) -> list[Part]:
    where = f"{message.where}.images"
    own = _images(scanner, message, where)
    if own and not _is_user(scanner.text, message):
        raise InvalidImage(f"{where} stands in a message whose role is not user; only those hold images.", param=where)
    return own


def _images(scanner: JsonScanner, message: ScannedMessage, where: str) -> list[Part]:
    """The parts for the `images` of one object: a list, or one image alone; none for an empty value."""
    images, body = message.last("images"), scanner.text
    if images is None or _is_empty(scanner, images):
        return []
    if body.startswith(b"[", images.value):
        spans = enumerate(scanner.elements(images.value))
        return [image_part(scanner, start, end, f"{where}[{index}]") for index, (start, end) in spans]
    if not body.startswith((b'"', b"{"), images.value):
        raise refused(where, f"is {kind_at(body, images.value)}")
    return [image_part(scanner, images.value, images.end, where)]


def _is_empty(scanner: JsonScanner, member: Member) -> bool:
    if scanner.text.startswith((b"null", b'""'), member.value):
        return True
    return scanner.text.startswith(b"{", member.value) and next(scanner.members(member.value), None) is None


def _turn_edits(scanner: JsonScanner, message: ScannedMessage, parts: Sequence[Part]) -> list[Edit]:
    own, content = message.named("images"), message.last("content")
    if not parts:
        return removals(message.listed, own)
    if content is not None:
        return [*removals(message.listed, own), _content_edit(scanner, message, content, parts)]
    if own:
        new = Edit(own[-1].start, own[-1].end, (b'"content":[', *_listed(parts), b"]"))
        return [*removals(message.listed, own[:-1]), new]
    end = message.listed[-1].end
    return [Edit(end, end, (b',"content":[', *_listed(parts), b"]"))]


def _content_edit(scanner: JsonScanner, message: ScannedMessage, content: Member, parts: Sequence[Part]) -> Edit:
    body = scanner.text
    if body.startswith((b"null", b'""'), content.value):
        return Edit(content.value, content.end, (b"[", *_listed(parts), b"]"))
    if body.startswith(b'"', content.value):
        words = memoryview(body)[content.value : content.end]
        text = (b'{"type":"text","text":', words, b"}")
        return Edit(content.value, content.end, (b"[", *_listed([text, *parts]), b"]"))
    if body.startswith(b"[", content.value):
        has_parts = next(scanner.elements(content.value), None) is not None
        return Edit(content.end - 1, content.end - 1, (b"," if has_parts else b"", *_listed(parts)))
    where = f"{message.where}.content"
    raise InvalidImage(
        f"{where} is {kind_at(body, content.value)}; a message that is to hold images has a text or a list of parts.",
        param=where,
    )


def _listed(parts: Sequence[Part]) -> list[Piece]:
    """The parts with commas between them."""
    result: list[Piece] = []
    for part in parts:
        result += (b",", *part)
    return result[1:]
