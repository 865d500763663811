"""Rule "images": images that stand beside the conversation go into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from gatepass.adapt.image import image_part, kind_at, refused
from gatepass.call import Call, Surface, Target
from gatepass.errors import InvalidImage
from gatepass.jsontext import Edit, Member, Piece, Walk, any_of, edited, may_name, removals, string

Part = tuple[Piece, ...]

WORDS = ("images",)
"""Where none of these stands in a body, the rule does not concern it."""
_WORDS = any_of(*WORDS)


@dataclass(frozen=True, slots=True)
class Turn:
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
        if call.operation.surface is not Surface.CHAT or not may_name(call.body, _WORDS):
            return call
        count, edits = _moves(call.body)
        if not edits:
            return call
        return replace(call, body=edited(call.body, edits), adapted=(*call.adapted, f"images={count}"))


def _moves(body: bytes) -> tuple[int, list[Edit]]:
    """How many images move, and the edits that move them."""
    walk = Walk(body)
    top = Turn("", list(walk.members()))
    turns = _turns(walk, top.last("messages"))
    loose = _images(walk, top, "images")
    host = _last_user(body, turns) if loose else None
    count, edits = len(loose), removals(top.listed, top.named("images"))
    for turn in turns:
        own = _own_images(walk, turn)
        count += len(own)
        edits += _turn_edits(walk, turn, [*own, *loose] if turn is host else own)
    return count, edits


def _turns(walk: Walk, messages: Member | None) -> list[Turn]:
    """The messages that are objects; what else stands there is the upstream's to refuse."""
    if messages is None or not walk.text.startswith(b"[", messages.value):
        return []
    return [
        Turn(f"messages[{index}]", list(walk.members(start)))
        for index, (start, _) in enumerate(walk.elements(messages.value))
        if walk.text.startswith(b"{", start)
    ]


def _last_user(body: bytes, turns: Sequence[Turn]) -> Turn:
    for turn in reversed(turns):
        if _is_user(body, turn):
            return turn
    raise InvalidImage("images has no user message to go to: `messages` holds none.", param="images")


def _is_user(body: bytes, turn: Turn) -> bool:
    role = turn.last("role")
    return role is not None and body.startswith(b'"', role.value) and string(body[role.value : role.end]) == "user"


def _own_images(walk: Walk, turn: Turn) -> list[Part]:
    where = f"{turn.where}.images"
    own = _images(walk, turn, where)
    if own and not _is_user(walk.text, turn):
        raise InvalidImage(f"{where} stands in a message whose role is not user; only those hold images.", param=where)
    return own


def _images(walk: Walk, turn: Turn, where: str) -> list[Part]:
    """The parts for the `images` of one object: a list, or one image alone; none for an empty value."""
    images, body = turn.last("images"), walk.text
    if images is None or _is_empty(walk, images):
        return []
    if body.startswith(b"[", images.value):
        spans = enumerate(walk.elements(images.value))
        return [image_part(walk, start, end, f"{where}[{index}]") for index, (start, end) in spans]
    if not body.startswith((b'"', b"{"), images.value):
        raise refused(where, f"is {kind_at(body, images.value)}")
    return [image_part(walk, images.value, images.end, where)]


def _is_empty(walk: Walk, member: Member) -> bool:
    if walk.text.startswith((b"null", b'""'), member.value):
        return True
    return walk.text.startswith(b"{", member.value) and next(walk.members(member.value), None) is None


def _turn_edits(walk: Walk, turn: Turn, parts: Sequence[Part]) -> list[Edit]:
    own, content = turn.named("images"), turn.last("content")
    if not parts:
        return removals(turn.listed, own)
    if content is not None:
        return [*removals(turn.listed, own), _content_edit(walk, turn, content, parts)]
    if own:
        new = Edit(own[-1].start, own[-1].end, (b'"content":[', *_listed(parts), b"]"))
        return [*removals(turn.listed, own[:-1]), new]
    end = turn.listed[-1].end
    return [Edit(end, end, (b',"content":[', *_listed(parts), b"]"))]


def _content_edit(walk: Walk, turn: Turn, content: Member, parts: Sequence[Part]) -> Edit:
    body = walk.text
    if body.startswith((b"null", b'""'), content.value):
        return Edit(content.value, content.end, (b"[", *_listed(parts), b"]"))
    if body.startswith(b'"', content.value):
        words = memoryview(body)[content.value : content.end]
        text = (b'{"type":"text","text":', words, b"}")
        return Edit(content.value, content.end, (b"[", *_listed([text, *parts]), b"]"))
    if body.startswith(b"[", content.value):
        has_parts = next(walk.elements(content.value), None) is not None
        return Edit(content.end - 1, content.end - 1, (b"," if has_parts else b"", *_listed(parts)))
    where = f"{turn.where}.content"
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
