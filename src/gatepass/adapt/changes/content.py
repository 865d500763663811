"""Changes of what a message says: lists of text parts as one string, no content as an empty one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.adapt.draft import Draft, ObjectDraft


@dataclass(frozen=True, slots=True)
class TextContent:
    """A list of parts that are all text becomes one string, an empty line between two. Entry `content=text`.

    Lists that hold anything else stay: a picture has no place in a string.
    """

    entry: str = "content=text"

    def revise(self, draft: Draft) -> bool:
        return sum(_flattened(turn) for turn in draft.turns if turn.kind("content") == "[") > 0


@dataclass(frozen=True, slots=True)
class EmptyContent:
    """`content: null` becomes `""`, and an assistant's message without any gets one. Entry `content=empty`."""

    entry: str = "content=empty"

    def revise(self, draft: Draft) -> bool:
        return sum(turn.set("content", b'""') for turn in draft.turns if _says_nothing(turn)) > 0


def text_of(turn: ObjectDraft) -> str | None:
    """What a message says, as one text; None where it holds more than text, or nothing."""
    said = turn.string("content")
    return _joined(turn.value("content")) if said is None and turn.kind("content") == "[" else said


def _flattened(turn: ObjectDraft) -> bool:
    text = text_of(turn)
    return text is not None and turn.set("content", msgspec.json.encode(text))


def _joined(parts: list[Any]) -> str | None:
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    said = [text for text in texts if isinstance(text, str)]
    return "\n\n".join(said) if said and len(said) == len(parts) else None


def _says_nothing(turn: ObjectDraft) -> bool:
    kind = turn.kind("content")
    return kind == "n" or (kind is None and turn.string("role") == "assistant")
