"""Texts that repeat all that came before, as some DashScope paths and RAGFlow agents send them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from gatepass.relay.chunk import Object
from gatepass.relay.repair.tools import Note
from gatepass.relay.repair.wishes import CUMULATIVE

EVIDENCE = 2
MIN_CHARS = 8
"""A text is evidence when it begins with all that came before, is longer, and that was this long at
least: a plain stream may repeat a syllable, but no phrase twice in growing form."""

MAX_TEXTS = 64
MAX_HELD = 64
MAX_HELD_BYTES = 1_048_576
MAX_CHARS = 16_777_216
"""What may be kept: texts that are watched, chunks that wait (ten are as many as one text needs), and
how much of one text is remembered after it has once broken its own rule."""

_FIELDS = ("content", "reasoning_content", "reasoning")


class Kind(Enum):
    OPEN = "open"
    PLAIN = "plain"
    CUMULATIVE = "cumulative"


@dataclass(slots=True)
class Item:
    """One chunk on its way, and the event that it came in; `has_changed`: it is to be written anew."""

    block: bytes
    said: Object
    has_changed: bool = False


@dataclass(slots=True)
class _Text:
    """One text of one choice: what was said of it so far, and what is known of its kind."""

    name: str
    so_far: str = ""
    kind: Kind = Kind.OPEN
    matches: int = 0
    waiting: list[tuple[Item, Object, str]] = field(default_factory=list)
    """Deltas that were not let go yet, each with what is new in it if the text is cumulative."""

    def take(self, item: Item, delta: Object, value: str) -> bool:
        """Note the next piece, and cut it where the kind is known; whether anything was cut."""
        if self.kind is Kind.CUMULATIVE:
            return self._cut(item, delta, self._new_part(value))
        if self.so_far and not (len(value) > len(self.so_far) and value.startswith(self.so_far)):
            return self.decide(Kind.PLAIN)
        if self.so_far:
            self.waiting.append((item, delta, value[len(self.so_far) :]))
            self.matches += len(self.so_far) >= MIN_CHARS
        self.so_far = value
        return self.matches >= EVIDENCE and self.decide(Kind.CUMULATIVE)

    def decide(self, kind: Kind) -> bool:
        """Settle what the text is, and cut what waited if it is cumulative."""
        self.kind = kind
        waiting, self.waiting = self.waiting, []
        if kind is Kind.PLAIN:
            self.so_far = ""
            return False
        for item, delta, part in waiting:
            self._cut(item, delta, part)
        return True

    def _cut(self, item: Item, delta: Object, part: str) -> bool:
        item.has_changed = True
        delta[self.name] = part
        return True

    def _new_part(self, value: str) -> str:
        """What `value` adds. One that does not begin with the text so far adds all of itself: what went
        out cannot be taken back."""
        if value.startswith(self.so_far):
            part, self.so_far = value[len(self.so_far) :], value
            return part
        if self.so_far.startswith(value):
            return ""
        self.so_far += value
        if len(self.so_far) > MAX_CHARS:
            self.decide(Kind.PLAIN)
        return value


class Suffixes:
    """Cuts cumulative texts down to what is new, each text of each choice by itself.

    It begins only when there is evidence for it; until then a chunk that may be the second, third or
    fourth of a cumulative text waits. At the end of a stream one match is evidence enough if nothing
    spoke against it.
    """

    __slots__ = ("_held", "_held_bytes", "_note", "_texts")

    def __init__(self, note: Note) -> None:
        self._note = note
        self._texts: dict[tuple[int, str], _Text] = {}
        self._held: list[Item] = []
        self._held_bytes = 0

    @property
    def is_settled(self) -> bool:
        """Whether every text that has come is known to be a plain one."""
        return all(text.kind is Kind.PLAIN for text in self._texts.values())

    def feed(self, item: Item) -> list[Item]:
        """The chunks that may go on now, in their order."""
        for index, delta, name in _texts(item.said):
            text = self._texts.get((index, name))
            if text is None:
                if len(self._texts) >= MAX_TEXTS:
                    continue
                text = self._texts[index, name] = _Text(name)
            if text.kind is not Kind.PLAIN and text.take(item, delta, delta[name]):
                self._note(CUMULATIVE)
        self._held.append(item)
        self._held_bytes += len(item.block)
        if len(self._held) > MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
            self._settle(EVIDENCE)
        return [] if any(text.waiting for text in self._texts.values()) else self._release()

    def finish(self) -> list[Item]:
        """All that waits."""
        self._settle(evidence=1)
        return self._release()

    def _settle(self, evidence: int) -> None:
        for text in self._texts.values():
            if text.waiting and text.decide(Kind.CUMULATIVE if text.matches >= evidence else Kind.PLAIN):
                self._note(CUMULATIVE)

    def _release(self) -> list[Item]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held


def _texts(said: Object) -> Iterator[tuple[int, Object, str]]:
    """The choice's index, the delta and the name of each text in a chunk that was mended before."""
    for choice in said["choices"]:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict):
            index = choice.get("index")
            for name in _FIELDS:
                if delta.get(name) and isinstance(delta[name], str):
                    yield index if type(index) is int else 0, delta, name
