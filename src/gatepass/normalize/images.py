"""Move images from `images` members into the content of messages, as `image_url` parts.

An image is never fetched, decoded or copied: a part consists of pieces of the client's body and a few bytes between
them.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from gatepass.errors import InvalidImage
from gatepass.json_scan import Edit, JsonScanner, Member, Piece, any_of, edited, may_name, pieces, removals, string
from gatepass.types import Call, ClientProtocol, Target

HEAD_BYTES = 1024
"""The start of a string, which shows whether it is a URL or base64."""
CHECKED_BYTES = 65_536
"""How much base64 is checked at once: it fits the CPU's cache, and no second copy of an image is made."""

SNIFFED_CHARS = 32

_HTTP = re.compile(rb"https?://[^\s/?#]", re.IGNORECASE)
_SCHEME = re.compile(rb"([a-z][a-z0-9+.-]{1,19}):", re.IGNORECASE)
_DATA_IMAGE = re.compile(rb"data:image/[a-z0-9.+-]+(?:;[^,;\x00-\x20\x7f]*)*?;base64,", re.IGNORECASE)
# Possessive, so that an invalid image of megabytes does not backtrack.
_BASE64 = re.compile(rb"[A-Za-z0-9+/ \t\r\n]*+(?:=[= \t\r\n]*+)?+")
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_MIME = re.compile(r"image/[a-z0-9.+-]{1,60}", re.IGNORECASE)
_BLANK = b" \t\r\n"
_BASE64_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" + _BLANK

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), b"image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), b"image/png"),
    # the four bytes are the length of the file
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), b"image/webp"),
    (re.compile(rb"GIF8[79]a"), b"image/gif"),
)
"""The formats that OpenAI's vision models accept. The upstream rejects BMP and others with a less clear error."""

_ADVICE = "Send an http(s) URL, a data:image/…;base64 URL, or the base64 of a JPEG, PNG, WebP or GIF."
_KINDS = {"[": "an array", '"': "a string", "{": "an object", "t": "true", "f": "false", "n": "null"}


@dataclass(frozen=True, slots=True)
class ImageObject:
    """An image written as an object: the member that becomes `image_url`, its URL, and the members to remove."""

    holder: Member
    url: tuple[Piece, ...] = field(repr=False)
    used: frozenset[str]


def image_part(scanner: JsonScanner, start: int, end: int, where: str) -> tuple[Piece, ...]:
    """Return the part for the image in `scanner.text` from `start` to `end`, as pieces of JSON text.

    A string is an http(s) URL, a data URL, or base64, whose first bytes show the type. An object has one of the forms
    `{image_url: {url}}`, `{image_url: str}`, `{url}`, `{inline_data: {mime_type, data}}`,
    `{source: {media_type, data}}` and `{blob|data, mime_type|media_type}`. `detail` is moved to where the API expects
    it, unknown members remain. Raises InvalidImage with `where` and the reason.
    """
    text = scanner.text
    if text.startswith(b'"', start):
        return (b'{"type":"image_url","image_url":{"url":', *_url(text, start, end, where), b"}}")
    if text.startswith(b"{", start):
        return _object_part(scanner, start, end, where)
    raise invalid_image(where, f"is {kind_at(text, start)}")


def invalid_image(where: str, reason: str) -> InvalidImage:
    return InvalidImage(f"{where} {reason}. {_ADVICE}", param=where)


def kind_at(text: bytes, at: int) -> str:
    """Name the kind of the JSON value that begins at `at`."""
    return _KINDS.get(chr(text[at]), "a number")


def _object_part(scanner: JsonScanner, start: int, end: int, where: str) -> tuple[Piece, ...]:
    text, listed = scanner.text, list(scanner.members(start))
    found = {member.name: member for member in listed}
    inner = found.get("image_url")
    if inner is not None and text.startswith(b"{", inner.value):
        url = {member.name: member for member in scanner.members(inner.value)}.get("url")
        if url is None:
            raise invalid_image(where, "has an image_url without url")
        edits = [Edit(url.value, url.end, _string_url(text, url, where))]
    else:
        image = _image_object(scanner, found, where)
        detail = found.get("detail")
        moved = (b',"detail":', memoryview(text)[detail.value : detail.end]) if detail is not None else ()
        new = Edit(image.holder.start, image.holder.end, (b'"image_url":{"url":', *image.url, *moved, b"}"))
        used = image.used | {"detail"}
        gone = [member for member in listed if member.name in used and member != image.holder]
        edits = [new, *removals(listed, gone)]
    kind = found.get("type")
    if kind is None:
        edits.append(Edit(start + 1, start + 1, (b'"type":"image_url",',)))
    else:
        edits.append(Edit(kind.value, kind.end, (b'"image_url"',)))
    return tuple(pieces(text, edits, start, end))


def _image_object(scanner: JsonScanner, found: dict[str, Member], where: str) -> ImageObject:
    text = scanner.text
    for name in ("image_url", "url"):
        if (holder := found.get(name)) is not None:
            return ImageObject(holder, _string_url(text, holder, where), frozenset((name,)))
    for name in ("inline_data", "source"):
        if (holder := found.get(name)) is not None and text.startswith(b"{", holder.value):
            inner = {member.name: member for member in scanner.members(holder.value)}
            return ImageObject(holder, _image_object(scanner, inner, where).url, frozenset((name,)))
    for name in ("blob", "data"):
        if (holder := found.get(name)) is not None:
            url = _string_url(text, holder, where, _mime_type(text, found, where))
            return ImageObject(holder, url, frozenset((name, "mime_type", "media_type")))
    raise invalid_image(where, "is an object without image_url, url, inline_data or data")


def _mime_type(text: bytes, found: dict[str, Member], where: str) -> bytes | None:
    """Return the type that the object declares, or None."""
    declared = found.get("mime_type") or found.get("media_type")
    if declared is None or text.startswith(b"null", declared.value):
        return None
    value = string(text[declared.value : declared.end]) if text.startswith(b'"', declared.value) else ""
    if _MIME.fullmatch(value) is None:
        raise invalid_image(where, "has a type that is not image/…")
    return value.encode()


def _string_url(text: bytes, member: Member, where: str, mime: bytes | None = None) -> tuple[Piece, ...]:
    if not text.startswith(b'"', member.value):
        raise invalid_image(where, f"has {kind_at(text, member.value)} in {member.name}")
    return _url(text, member.value, member.end, where, mime)


def _url(text: bytes, start: int, end: int, where: str, mime: bytes | None = None) -> tuple[Piece, ...]:
    """Return the URL for the JSON string from `start` to `end`, as a JSON string. URLs keep their bytes."""
    written = memoryview(text)[start:end]
    # Unescaping copies the image, so this is done only for a string with escapes.
    has_escapes = text.find(b"\\", start, end) >= 0
    value = memoryview(string(bytes(written)).encode()) if has_escapes else written[1:-1]
    head = bytes(value[:HEAD_BYTES])
    if _HTTP.match(head) is not None:
        url = str(value, "utf-8", "replace")
        if any(_UNFIT.search(url, at, at + CHECKED_BYTES) for at in range(0, len(url), CHECKED_BYTES)):
            raise invalid_image(where, "is a URL that contains a space, a line break or another control character")
        return (written,)
    if (data_url := _DATA_IMAGE.match(head)) is not None:
        _check_base64(value[data_url.end() :], where)
        return (written,)
    if (scheme := _SCHEME.match(head)) is not None:
        raise invalid_image(where, f"is a {scheme[1].decode().lower()}: URL, which gatepass does not support")
    return _data_url(value, where, mime, has_escapes=has_escapes)


def _data_url(base64: memoryview, where: str, mime: bytes | None, *, has_escapes: bool) -> tuple[Piece, ...]:
    """Return base64 as a data URL on one line, with padding."""
    _check_base64(base64, where)
    if has_escapes or b" " in bytes(base64[:HEAD_BYTES]):
        base64 = memoryview(bytes(base64).translate(None, _BLANK))
    if mime is None:
        try:
            # Whole groups of four characters, because a2b_base64 rejects a part of one.
            head = a2b_base64(base64[: min(len(base64), SNIFFED_CHARS) // 4 * 4])
        except Error:
            head = b""
        mime = next((kind for signature, kind in _SIGNATURES if signature.match(head)), None)
    if mime is None:
        raise invalid_image(where, "does not begin like an image that gatepass supports")
    missing = -len(base64) % 4
    # A group of base64 has two characters or more.
    if missing == 3:
        raise invalid_image(where, "is incomplete base64")
    return (b'"data:%b;base64,' % mime, base64, b"=" * missing + b'"')


def _check_base64(base64: memoryview, where: str) -> None:
    if not len(base64):
        raise invalid_image(where, "is empty")
    for at in range(0, len(base64), CHECKED_BYTES):
        # The padding is not in _BASE64_BYTES: only a piece with it, or an invalid one, needs the regular expression.
        if bytes(base64[at : at + CHECKED_BYTES]).translate(None, _BASE64_BYTES):
            if _BASE64.fullmatch(base64[at:]) is None:
                raise invalid_image(where, "is neither a URL nor base64")
            return


Part = tuple[Piece, ...]

_WORDS = any_of("images")


@dataclass(frozen=True, slots=True)
class ScannedMessage:
    """One message: its path in the body, and its members in order."""

    where: str
    listed: list[Member]

    def last(self, name: str) -> Member | None:
        return next((member for member in reversed(self.listed) if member.name == name), None)

    def named(self, name: str) -> list[Member]:
        return [member for member in self.listed if member.name == name]


class Images:
    """Move `images` into the parts of a user message; entry `images=N`.

    Top-level images go to the last user message, as RAGFlow intends: its `images` keyword becomes a member of the body.
    `messages[].images`, Ollama's form, go to that message. The text comes first, existing parts remain, an empty
    `images` is dropped. Raises InvalidImage with the index of an invalid image, or if no user message can hold it.
    """

    name = "images"
    effect = "`images` next to the conversation are moved into it"
    words = ("images",)
    calls = frozenset(((ClientProtocol.CHAT, False), (ClientProtocol.CHAT, True)))

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if call.operation.protocol is not ClientProtocol.CHAT or not may_name(call.body, _WORDS):
            return call
        count, edits = _moves(call.body)
        if not edits:
            return call
        return replace(call, body=edited(call.body, edits), adapted=(*call.adapted, f"images={count}"))


def _moves(body: bytes) -> tuple[int, list[Edit]]:
    """Return the number of images to move, and the edits that move them."""
    scanner = JsonScanner(body)
    top = ScannedMessage("", list(scanner.members()))
    messages = _messages(scanner, top.last("messages"))
    top_images = _images(scanner, top, "images")
    last_user = None
    if top_images:
        # RAGFlow means the last question (see Images).
        last_user = next((message for message in reversed(messages) if _is_user(body, message)), None)
        if last_user is None:
            raise InvalidImage("images requires a user message, and `messages` has none.", param="images")
    count, edits = len(top_images), removals(top.listed, top.named("images"))
    for message in messages:
        where = f"{message.where}.images"
        own = _images(scanner, message, where)
        if own and not _is_user(body, message):
            raise InvalidImage(
                f"{where} is in a message whose role is not user. Only user messages may have images.", param=where
            )
        count += len(own)
        edits += _message_edits(scanner, message, [*own, *top_images] if message is last_user else own)
    return count, edits


def _messages(scanner: JsonScanner, messages: Member | None) -> list[ScannedMessage]:
    """Return the messages that are objects. The upstream rejects others."""
    if messages is None or not scanner.text.startswith(b"[", messages.value):
        return []
    return [
        ScannedMessage(f"messages[{index}]", list(scanner.members(start)))
        for index, (start, _) in enumerate(scanner.elements(messages.value))
        if scanner.text.startswith(b"{", start)
    ]


def _is_user(body: bytes, message: ScannedMessage) -> bool:
    role = message.last("role")
    return role is not None and body.startswith(b'"', role.value) and string(body[role.value : role.end]) == "user"


def _images(scanner: JsonScanner, message: ScannedMessage, where: str) -> list[Part]:
    """Return the parts for the `images` of one object: a list, or a single image; none for an empty value."""
    images, body = message.last("images"), scanner.text
    if images is None or body.startswith((b"null", b'""'), images.value):
        return []
    if body.startswith(b"{", images.value) and next(scanner.members(images.value), None) is None:
        return []
    if body.startswith(b"[", images.value):
        spans = enumerate(scanner.elements(images.value))
        return [image_part(scanner, start, end, f"{where}[{index}]") for index, (start, end) in spans]
    if not body.startswith((b'"', b"{"), images.value):
        raise invalid_image(where, f"is {kind_at(body, images.value)}")
    return [image_part(scanner, images.value, images.end, where)]


def _message_edits(scanner: JsonScanner, message: ScannedMessage, parts: Sequence[Part]) -> list[Edit]:
    own, content = message.named("images"), message.last("content")
    if not parts:
        return removals(message.listed, own)
    if content is not None:
        return [*removals(message.listed, own), _content_edit(scanner, message, content, parts)]
    if own:
        # in the place of the last `images`, whose comma stays right
        new = Edit(own[-1].start, own[-1].end, (b'"content":[', *_listed(parts), b"]"))
        return [*removals(message.listed, own[:-1]), new]
    end = message.listed[-1].end
    return [Edit(end, end, (b',"content":[', *_listed(parts), b"]"))]


def _content_edit(scanner: JsonScanner, message: ScannedMessage, content: Member, parts: Sequence[Part]) -> Edit:
    body = scanner.text
    if body.startswith((b"null", b'""'), content.value):  # no empty text part
        return Edit(content.value, content.end, (b"[", *_listed(parts), b"]"))
    if body.startswith(b'"', content.value):
        text = (b'{"type":"text","text":', memoryview(body)[content.value : content.end], b"}")
        return Edit(content.value, content.end, (b"[", *_listed([text, *parts]), b"]"))
    if body.startswith(b"[", content.value):
        has_parts = next(scanner.elements(content.value), None) is not None
        return Edit(content.end - 1, content.end - 1, (b"," if has_parts else b"", *_listed(parts)))
    where = f"{message.where}.content"
    raise InvalidImage(
        f"{where} is {kind_at(body, content.value)}. In a message with images it must be a string or a list of parts.",
        param=where,
    )


def _listed(parts: Sequence[Part]) -> list[Piece]:
    """Return the parts with commas between them."""
    result: list[Piece] = []
    for part in parts:
        result += (b",", *part)
    return result[1:]
