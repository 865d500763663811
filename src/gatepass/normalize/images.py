"""Move images from `images` members into the content of messages, as `image_url` parts.

An image is never fetched, decoded or copied: a part consists of pieces of the client's body and a few bytes between
them.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from collections.abc import Sequence

from gatepass.draft import Draft, ListDraft, ObjectDraft, Value, fixed_change
from gatepass.errors import InvalidImage
from gatepass.json_body import CHECKED_BYTES, SMALL_BYTES, UNCOUNTED_BYTES, Piece, lacks, searched, string
from gatepass.types import Call, Target

HEAD_BYTES = 1024
"""The start of a string, which shows whether it is a URL or base64."""
SNIFFED_CHARS = 32

_HTTP = re.compile(rb"https?://[^\s/?#]", re.IGNORECASE)
_SCHEME = re.compile(rb"([a-z][a-z0-9+.-]{1,19}):", re.IGNORECASE)
_DATA_IMAGE = re.compile(rb"data:image/[a-z0-9.+-]+(?:;[^,;\\\x00-\x20\x7f]*)*?;base64,", re.IGNORECASE)
# Possessive, so that an invalid image of megabytes does not backtrack.
_BASE64 = re.compile(rb"[A-Za-z0-9+/ \t\r\n]*+(?:=[= \t\r\n]*+)?+")
_MIME = re.compile(r"image/[a-z0-9.+-]{1,60}", re.IGNORECASE)
_BLANK = b" \t\r\n"
_PADDING = b"=" + _BLANK
_OTHERS = tuple(code for code in range(ord("!"), 128) if not chr(code).isalnum() and chr(code) not in "+/")
"""ASCII that is not in base64 without padding. A search for each takes half of the instructions of one `translate`."""
_CONTROLS = tuple(code for code in range(ord(" ")) if code not in _BLANK)
"""What only a string with escapes may have too."""

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), b"image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), b"image/png"),
    # the four bytes are the length of the file
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), b"image/webp"),
    (re.compile(rb"GIF8[79]a"), b"image/gif"),
)
"""The formats that OpenAI's vision models accept. The upstream rejects BMP and others with a less clear error."""

_ADVICE = "Send an http(s) URL, a data:image/…;base64 URL, or the base64 of a JPEG, PNG, WebP or GIF."
Part = tuple[Piece, ...]

_KINDS = {"[": "an array", '"': "a string", "{": "an object", "t": "true", "f": "false", "n": "null"}


def image_part(image: Value, where: str) -> Part:
    """Return the part for `image`, as pieces of JSON text.

    A string is an http(s) URL, a data URL, or base64, whose first bytes show the type. An object has one of the forms
    `{image_url: {url}}`, `{image_url: str}`, `{url}`, `{inline_data: {mime_type, data}}`,
    `{source: {media_type, data}}` and `{blob|data, mime_type|media_type}`. `detail` is moved to where the API expects
    it, unknown members remain. Raises InvalidImage with `where` and the reason.
    """
    if image.kind == '"':
        return (b'{"type":"image_url","image_url":{"url":', *_url(image, where), b"}}")
    if (members := image.object) is None:
        raise invalid_image(where, f"is {kind_of(image)}")
    inner = members.object("image_url")
    if inner is not None:
        url = inner.get("url")
        if url is None:
            raise invalid_image(where, "has an image_url without url")
        if len(found := _url(url, where, "url")) > 1:  # else it is the same URL: `set` would compare all its bytes
            inner.set("url", *found)
    else:
        found, detail = _object_url(members, where), members.text("detail")
        for name in _MEMBERS:
            members.drop(name)
        moved = () if detail is None else (b',"detail":', detail)
        members.set("image_url", b'{"url":', *found, *moved, b"}")
    members.set("type", b'"image_url"')
    return (*members.pieces(),)


def invalid_image(where: str, reason: str) -> InvalidImage:
    return InvalidImage(f"{where} {reason}. {_ADVICE}", param=where)


def kind_of(value: Value) -> str:
    return _KINDS.get(value.kind, "a number")


_MEMBERS = ("image_url", "url", "inline_data", "source", "blob", "data", "mime_type", "media_type", "detail")
"""Members that `image_url` replaces."""


def _object_url(image: ObjectDraft, where: str) -> Part:
    for name in ("image_url", "url"):
        if (value := image.get(name)) is not None:
            return _url(value, where, name)
    for name in ("inline_data", "source"):
        if (inner := image.object(name)) is not None:
            return _object_url(inner, where)
    for name in ("blob", "data"):
        if (value := image.get(name)) is not None:
            return _url(value, where, name, _mime_type(image, where))
    raise invalid_image(where, "is an object without image_url, url, inline_data, source, blob or data")


def _mime_type(image: ObjectDraft, where: str) -> bytes | None:
    declared = image.get("mime_type") or image.get("media_type")
    if declared is None or declared.kind == "n":
        return None
    mime = declared.string or ""
    if _MIME.fullmatch(mime) is None:
        raise invalid_image(where, "has a type that is not image/…")
    return mime.encode()


def _url(value: Value, where: str, name: str = "", mime: bytes | None = None) -> Part:
    """Return the URL for the string `value`, as a JSON string. URLs keep their bytes."""
    if value.kind != '"':
        raise invalid_image(where, f"has {kind_of(value)} in {name}")
    (written,) = value.pieces()
    text = memoryview(written)[1:-1]
    base64 = _base64_of(text)
    is_base64 = _is_base64(base64)
    has_escapes = not is_base64 and any(
        b"\\" in bytes(text[at : at + CHECKED_BYTES]) for at in range(0, len(text), CHECKED_BYTES)
    )
    if has_escapes:  # unescaping copies the image
        text = memoryview(string(written).encode())
        base64 = _base64_of(text)
        is_base64 = _is_base64(base64, _OTHERS + _CONTROLS)
    head = bytes(text[:HEAD_BYTES])
    if _HTTP.match(head) is not None:
        return (written,)
    is_url = len(base64) < len(text)
    if not is_url and (scheme := _SCHEME.match(head)) is not None:
        raise invalid_image(where, f"is a {scheme[1].decode().lower()}: URL, which gatepass does not support")
    if not is_base64:
        raise invalid_image(where, "is neither a URL nor base64" if len(base64) else "is empty")
    return (written,) if is_url else _data_url(base64, where, mime, has_escapes=has_escapes)


def _base64_of(text: memoryview) -> memoryview:
    """Return `text` behind the head of a data URL if it begins with one."""
    head = _DATA_IMAGE.match(text[:HEAD_BYTES])
    return text if head is None else text[head.end() :]


def _data_url(base64: memoryview, where: str, mime: bytes | None, *, has_escapes: bool) -> Part:
    """Return base64 as a data URL on one line, with padding."""
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


def _is_base64(text: memoryview, others: tuple[int, ...] = _OTHERS) -> bool:
    """Whether all of `text`, which is not empty, is base64 without escapes."""
    has_padding = False
    for at in range(0, len(text), CHECKED_BYTES):
        piece = bytes(text[at : at + CHECKED_BYTES])
        if has_padding:
            is_valid = not piece.translate(None, _PADDING)
        else:
            # only the first piece with padding, or an invalid one, needs the regular expression
            has_padding = not piece.isascii() or any(map(piece.__contains__, others))
            is_valid = not has_padding or _BASE64.fullmatch(piece) is not None
        if not is_valid:
            return False
    return len(text) > 0


WORD = b'"images"'
"""A message has `images` only if its text has this. A name that is spelled with escapes is not moved."""
_BEGIN = rb"(?:\\?/9j\\?/|iVBORw0KGgo|UklGR|R0lGOD)"
"""How the base64 of the formats of _SIGNATURES begins."""
_BARE_TEXT, _S = re.compile(b'"' + _BEGIN), rb"\s{0,9}+"
_OBJECT = rb'\{%b(?:"detail"%b:%b"\w{0,9}+"%b,%b)?"url"%b:%b' % ((_S,) * 7)
_BARE = re.compile(rb'"image_url"%b:%b(?:%b)?"' % (_S, _S, _OBJECT) + _BEGIN)
_IMAGE = searched('"image')
FOUND_BYTES = 8 * 1024 * 1024
"""Up to this size `bytes.find` searches a body, which needs a fifth of the instructions of an expression. Where one
letter of the name fills the body, it takes ten times as long, 23 ms for so many bytes."""


def has_images(call: Call) -> bool:
    """Whether a chat may have `images` in a message, or base64 in place of a URL."""
    body = call.body
    if "images" not in call.operation.members:
        return False
    if SMALL_BYTES < len(body) <= UNCOUNTED_BYTES and lacks(body, _IMAGE):  # half of what `find` takes
        return False
    # one search of most bodies, not two
    if (at := _find(b'"image', body)) < 0:
        return False
    if _find(WORD, body, at) >= 0:
        return True
    return body.find(b"image_url", at) >= 0 and (len(body) > UNCOUNTED_BYTES or _has_bare(body))


def _find(word: bytes, body: bytes, at: int = 0) -> int:
    """Return where `word`, which has no character of an expression, begins in `body`; -1 if nowhere."""
    if len(body) <= FOUND_BYTES:
        return body.find(word, at)
    found = re.compile(word).search(body, at)
    return -1 if found is None else found.start()


def _has_bare(text: bytes) -> bool:
    """Search in pieces, between which other threads run."""
    if (first := text.find(b'"image_url"')) < 0:
        return False
    ends = [(at, at + CHECKED_BYTES + HEAD_BYTES) for at in range(first, len(text), CHECKED_BYTES)]
    return any(_BARE.search(text, *end) is not None for end in ends)


class Images:
    """Move `images` into the parts of a user message; entry `images=N`.

    Top-level images go to the last user message, as RAGFlow intends: its `images` keyword becomes a member of the body.
    `messages[].images`, Ollama's form, go to that message. The text comes first, existing parts remain, an empty
    `images` is dropped. Base64 in place of an `image_url` becomes a data URL.
    Raises InvalidImage with the index of an invalid image, or if no user message can hold it.
    """

    name = "images"

    def concerns(self, call: Call, target: Target) -> bool:
        del target
        may_have = "images" in call.operation.members and bool(call.body)
        return may_have and ("images" in call.opened().values or has_images(call))

    def apply(self, draft: Draft, target: Target) -> None:
        del target
        top_images = _parts(draft.top, "images")
        has_changed = draft.top.drop("images")
        text, messages = draft.top.text("messages") or b"", draft.top.array("messages")
        # RAGFlow means the last question (see Images).
        last_user = None if messages is None or not top_images else _last_user(messages)
        if top_images and last_user is None:
            raise InvalidImage("images requires a user message, and `messages` has none.", param="images")
        count = 0
        for index, message in [] if messages is None else _opened(text, messages, last_user):
            where = f"messages[{index}].images"
            own = _parts(message, where)
            if own and message.string("role") != "user":
                raise InvalidImage(
                    f"{where} is in a message whose role is not user. Only user messages may have images.", param=where
                )
            has_changed |= message.drop("images")
            if images := [*own, *(top_images if index == last_user else ())]:
                _add_parts(message, images, f"messages[{index}].content")
                count += len(images)
        # not in the whole body, which may have megabytes of `images`
        bare = sum(map(_complete_urls, draft.messages)) if _has_bare(text) else 0
        if has_changed or bare:
            draft.adapted = (*draft.adapted, f"images={count + bare}")


def _complete_urls(message: ObjectDraft) -> int:
    """Make base64 in place of the URLs of a message data URLs, and return how many."""
    count, parts = 0, message.array("content")
    for part in [] if parts is None else parts.objects():
        inner = part.object("image_url")
        owner, name = (part, "image_url") if inner is None else (inner, "url")
        value = owner.get(name)
        if value is not None and value.kind == '"' and _BARE_TEXT.match(next(iter(value.pieces()))) is not None:
            count += owner.set(name, *_url(value, name, name))
    return count


def _opened(text: bytes, messages: ListDraft, last_user: int | None) -> list[tuple[int, ObjectDraft]]:
    """Return the last message of the user and those with `images`, which are few of a long chat, of the JSON `text`."""
    indexes = [] if last_user is None else [last_user]
    if WORD in text:
        indexes = [at for at in range(len(messages)) if at == last_user or WORD in messages.text(at)]
    return [(at, message) for at in indexes if (message := messages[at].object) is not None]


def _last_user(messages: ListDraft) -> int | None:
    for index in reversed(range(len(messages))):
        text = messages.text(index)
        if b'"user"' not in text and b"\\u" not in text:  # the role may have escapes
            continue
        message = messages[index].object
        if message is not None and message.string("role") == "user":
            return index
    return None


def _parts(owner: ObjectDraft, where: str) -> list[Part]:
    """Return the parts for the `images` of one object: a list, or a single image; none for an empty value."""
    images = owner.get("images")
    if images is None or images.kind == "n" or tuple(images.pieces()) == (b'""',):
        return []
    if images.array is not None:
        return [image_part(image, f"{where}[{index}]") for index, image in enumerate(images.array)]
    if images.object is not None and not images.object.names:
        return []
    return [image_part(images, where)]


def _add_parts(message: ObjectDraft, parts: Sequence[Part], where: str) -> None:
    content = message.get("content")
    if content is not None and content.array is not None:
        for part in parts:
            content.array.insert(len(content.array), *part)
        return
    text: tuple[Piece, ...] = (b'""',) if content is None or content.kind == "n" else tuple(content.pieces())
    if content is not None and content.kind not in '"n':
        raise InvalidImage(
            f"{where} is {kind_of(content)}. In a message with images it must be a string or a list of parts.",
            param=where,
        )
    if text != (b'""',):  # no empty text part
        parts = [(b'{"type":"text","text":', *text, b"}"), *parts]
    first, *others = parts
    message.set("content", b"[", *first, *(piece for part in others for piece in (b",", *part)), b"]")


_URL = b"data:image/"
MOST_URLS = 1_000
"""In a request with more of them, texts stay as they are."""


@fixed_change("images=text")
def images_of_texts(draft: Draft) -> bool:
    """Move images from texts into parts; entry `images=text`.

    RAGFlow 0.24 writes the data URL of a file in a line of its own (infiniflow/ragflow#13347), mostly at the end of the
    system message. A part goes to the same message, or to the last one of the user.
    """
    if not 0 < draft.call.body.count(_URL) <= MOST_URLS:
        return False
    users = [message for message in draft.messages if message.string("role") == "user"]
    if not users:
        return False
    has_moved = False
    for message in draft.messages:
        content = message.get("content")
        parts = None if content is None else content.array
        for owner, name in [(message, "content")] if parts is None else [(part, "text") for part in parts.objects()]:
            rest, urls = _cut_urls(owner.text(name) or b"") if owner.kind(name) == '"' else (b"", [])
            if urls:
                owner.set(name, rest)
                images: list[Part] = [(b'{"type":"image_url","image_url":{"url":"', url, b'"}}') for url in urls]
                _add_parts(message if message in users else users[-1], images, "content")
                has_moved = True
    return has_moved


def _cut_urls(text: bytes) -> tuple[bytes, list[memoryview]]:
    """Return the JSON string `text` without the data URLs of images in lines of their own or in Markdown, and
    these URLs."""
    view, rest, urls, kept, at = memoryview(text), list[Piece](), list[memoryview](), 0, 0
    ends = {b"\\": -1, b" ": -1, b")": -1}  # the next of each, so that a text is searched once
    while (at := text.find(_URL, at + 1)) >= 0:
        head = _DATA_IMAGE.match(text, at, at + HEAD_BYTES)
        if head is None or not (at == 1 or text.endswith((b"\\n", b" ", b"]("), 0, at)):
            continue
        for sign, end in ends.items():
            if end < head.end():
                ends[sign] = text.find(sign, head.end()) % len(text)  # the quote at the end if there is none
        end = min(ends.values())
        if end < len(text) - 1 and not text.startswith((b"\\n", b"\\r", b")"), end):
            continue
        if not _is_base64(view[head.end() : end]):
            continue
        rest.append(view[kept:at])
        urls.append(view[at:end])
        kept = end
    return b"".join((*rest, view[kept:])), urls
