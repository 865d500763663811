"""Change a JSON body with several rules, each of which sees the result of those before it, and write it once.

Only what a rule reads is opened (`json_body`). A value that no rule changes keeps its bytes. An object or list with a
change is written without blanks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

from gatepass.errors import BodyTooComplex
from gatepass.json_body import (
    MAX_DEPTH,
    MOST_MEMBERS,
    SMALL_BYTES,
    Members,
    Piece,
    Text,
    elements,
    members,
    string,
    too_deep,
)
from gatepass.types import Call, Hidden, Target

MOST_PASSES, PASSED_BYTES = 16, 4 * 1024 * 1024
"""How often rules may read a body, or how much of it. A tool's result lies six levels down."""


class _Opened:
    """Counts the members that the rules of one call open, and the bytes: each level is read with all below it."""

    __slots__ = ("is_small", "left", "left_bytes")

    def __init__(self, body: bytes) -> None:
        self.left, self.left_bytes = MOST_MEMBERS, max(MOST_PASSES * len(body), PASSED_BYTES)
        self.is_small = len(body) <= SMALL_BYTES

    def read(self, text: Text, level: int) -> Text:
        """Return the `text` of a value at `level`, which is then opened."""
        self.left_bytes -= memoryview(text).nbytes
        if level > MAX_DEPTH:
            raise too_deep()
        if self.left_bytes < 0:
            raise BodyTooComplex("The body has many values at many levels. Send less structure in one request.")
        return text

    def members(self, text: Text) -> Members:
        found = members(text)
        self.left -= 1 + len(found)
        if self.left < 0:
            raise BodyTooComplex(
                f"gatepass would open more than {MOST_MEMBERS} members of the body to change it. Send less structure in"
                " one request."
            )
        return found


class Value(Hidden, msgspec.Struct, eq=False):
    """The value of a member or an element: the client's text, new pieces instead, or what `object` or `array` made."""

    _text: Text | tuple[Piece, ...]
    _opened: _Opened
    _level: int
    editor: ObjectDraft | ListDraft | None = None

    @property
    def kind(self) -> str:
        """The first character: `{`, `[`, `"`, `t`, `f`, `n`, a digit or `-`."""
        text = self._text
        return chr(memoryview(text[0] if isinstance(text, tuple) else text)[0])

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces())

    @property
    def string(self) -> str | None:
        """The value if it is a string of at most SMALL_BYTES, such as a role: a large one takes 80 ms to decode."""
        return string(self.text) if self.kind == '"' and self.size_bytes <= SMALL_BYTES else None

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.pieces()))

    @property
    def object(self) -> ObjectDraft | None:
        if self.editor is None and self.kind == "{":
            self.editor = ObjectDraft(self._opened.members(self._source()), self._opened, self._level)
        return self.editor if isinstance(self.editor, ObjectDraft) else None

    @property
    def array(self) -> ListDraft | None:
        if self.editor is None and self.kind == "[":
            self.editor = ListDraft(elements(self._source()), self._opened, self._level)
        return self.editor if isinstance(self.editor, ListDraft) else None

    @property
    def is_changed(self) -> bool:
        return self.editor is not None and self.editor.is_changed

    def pieces(self) -> Iterable[Piece]:
        """Return the JSON text. A long text is not copied."""
        if (editor := self.editor) is not None and editor.is_changed:
            return editor.pieces()
        return self._text if isinstance(self._text, tuple) else (memoryview(self._text),)

    def _source(self) -> Text:
        text = b"".join(self._text) if isinstance(self._text, tuple) else self._text
        return self._opened.read(text, self._level)


class ObjectDraft:
    """An object. If a name occurs more than once, its last member is used, as every known parser does."""

    __slots__ = ("_inner", "_members", "_opened", "has_changed", "repeated")

    def __init__(self, listed: Members, opened: _Opened, level: int) -> None:
        """Take the members `listed` of an object at `level`."""
        self._inner = level + 1
        self._members: dict[str, msgspec.Raw | Value] = dict(listed)
        is_repeating = len(self._members) < len(listed)
        self.repeated: Collection[str] = (
            Counter(name for name, _ in listed) - Counter([*self._members]) if is_repeating else ()
        )
        """The names of several members. As long as nothing changes, all of them are sent."""
        self._opened = opened
        self.has_changed = False

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def names(self) -> Collection[str]:
        return self._members.keys()

    @property
    def is_changed(self) -> bool:
        return self.has_changed or any(isinstance(one, Value) and one.is_changed for one in self._members.values())

    def pieces(self) -> list[Piece]:
        # as after a drop: one call instead of three a member; of a large body it would take half as much memory more
        if self._opened.is_small and Value not in map(type, self._members.values()):
            return [msgspec.json.encode(self._members)]
        found: list[Piece] = []
        for name, value in self._members.items():
            pieces = value.pieces() if isinstance(value, Value) else (memoryview(value),)
            found += (b",", msgspec.json.encode(name), b":", *pieces)
        return [b"{", *found[1:], b"}"]

    def get(self, name: str) -> Value | None:
        """Return the member, for whose changes there is one Value."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, Value):
            value = self._members[name] = Value(value, self._opened, self._inner)
        return value

    def text(self, name: str) -> bytes | None:
        """Return the member's value as JSON text, or None."""
        value = self.get(name)
        return None if value is None else value.text

    def small_text(self, name: str) -> bytes | None:
        """Return the member's value as JSON text if it has at most SMALL_BYTES, else None."""
        value = self.get(name)
        return None if value is None or value.size_bytes > SMALL_BYTES else value.text

    def kind(self, name: str) -> str | None:
        """Return the first character of the member's value, or None (see Value)."""
        value = self.get(name)
        return None if value is None else value.kind

    def string(self, name: str) -> str | None:
        """Return the member's value if it is a string of at most SMALL_BYTES, else None."""
        value = self.get(name)
        return None if value is None else value.string

    def raw_string(self, name: str) -> bytes | None:
        """Return the JSON text between the quotes of the member's value if it is a string, else None."""
        text = self.text(name) if self.kind(name) == '"' else None
        return None if text is None else text[1:-1]

    def object(self, name: str) -> ObjectDraft | None:
        value = self.get(name)
        return None if value is None else value.object

    def array(self, name: str) -> ListDraft | None:
        value = self.get(name)
        return None if value is None else value.array

    def drop(self, name: str) -> bool:
        """Drop the member; return whether there was one."""
        has_dropped = self._members.pop(name, None) is not None
        self.has_changed |= has_dropped
        return has_dropped

    def set(self, name: str, *new: Piece) -> bool:
        """Set the member to the JSON text of `new`, or add it at the end; return whether that changes it."""
        if len(new) == 1 and self.text(name) == new[0]:
            return False
        self._members[name] = msgspec.Raw(new[0]) if len(new) == 1 else Value(new, self._opened, self._inner)
        self.has_changed = True
        return True

    def put(self, name: str, new: bytes) -> None:
        """Set the member as `set` does, or add it before all others, without a change of the object."""
        value = msgspec.Raw(new)
        if name in self._members:
            self._members[name] = value
        else:
            self._members = {name: value, **self._members}

    def rename(self, old: str, new: str) -> bool:
        """Rename the member `old` to `new`. If `new` exists, only drop `old`. Return whether there was an `old`."""
        listed = self._members
        if old not in listed or old == new:
            return False
        if new in listed:
            return self.drop(old)
        self._members = {new if name == old else name: value for name, value in listed.items()}
        self.has_changed = True
        return True


class ListDraft:
    """An array. Positions count the present elements, without those that were dropped."""

    __slots__ = ("_elements", "_inner", "_made", "_opened", "has_changed")

    def __init__(self, listed: list[msgspec.Raw], opened: _Opened, level: int) -> None:
        self._elements: list[msgspec.Raw | Value] = [*listed]
        self._made = list[Value]()
        self._opened = opened
        self._inner = level + 1
        self.has_changed = False

    def __len__(self) -> int:
        return len(self._elements)

    @property
    def is_changed(self) -> bool:
        return self.has_changed or any(value.is_changed for value in self._made)

    def pieces(self) -> list[Piece]:
        found: list[Piece] = []
        for one in self._elements:  # not joined, so that a list of megabytes is copied once
            found += (b",", *one.pieces()) if isinstance(one, Value) else (b",", one)
        return [b"[", *found[1:], b"]"]

    def __iter__(self) -> Iterator[Value]:
        return map(self.__getitem__, range(len(self._elements)))

    def __getitem__(self, index: int) -> Value:
        """Return the element, for whose changes there is one Value."""
        element = self._elements[index]
        if not isinstance(element, Value):
            element = self._elements[index] = Value(element, self._opened, self._inner)
            self._made.append(element)
        return element

    def text(self, index: int) -> bytes:
        """Return the element as JSON text."""
        element = self._elements[index]
        return element.text if isinstance(element, Value) else bytes(element)

    def objects(self) -> list[ObjectDraft]:
        return [one for _, one in self.numbered()]

    def numbered(self) -> list[tuple[int, ObjectDraft]]:
        """Return the elements that are objects, with their positions."""
        found = ((index, element.object) for index, element in enumerate(self))
        return [(index, one) for index, one in found if one is not None]

    def drop(self, indices: Iterable[int]) -> None:
        dropped = frozenset(indices)
        self._elements = [element for index, element in enumerate(self._elements) if index not in dropped]
        self.has_changed = self.has_changed or bool(dropped)

    def insert(self, index: int, *new: Piece) -> None:
        """Insert the JSON text of `new` before the element at `index`, or at the end."""
        self._elements.insert(index, Value(new, self._opened, self._inner))
        self.has_changed = True


class Rule(Protocol):
    """One named change of a call. Unknown members keep their bytes."""

    @property
    def name(self) -> str:
        """A short name, such as `images`."""

    def concerns(self, call: Call, target: Target) -> bool:
        """Whether the rule may change `call`, of which no rule has changed anything yet."""

    def apply(self, draft: Draft, target: Target) -> None:
        """Make the changes, with an entry in `adapted` for each. Raises a CallerError if the call cannot be adapted."""


class Change(Protocol):
    """One edit of a body, or of the header fields of a call."""

    @property
    def entry(self) -> str:
        """The text in `x-gatepass-adapted`: short, ASCII, without a value from the client."""

    def apply_to(self, draft: Draft, /) -> bool:
        """Edit the body and return True, or return False and leave it unchanged."""


@dataclass(frozen=True, slots=True)
class FixedChange:
    """A Change without settings."""

    entry: str
    apply_to: Callable[[Draft], bool]


def fixed_change(entry: str) -> Callable[[Callable[[Draft], bool]], FixedChange]:
    """Make a Change of the decorated function, which edits the body and returns whether it changed."""
    return lambda apply_to: FixedChange(entry, apply_to)


class Draft:
    """A call under change. Its `call` is the one before all changes.

    `stream`: whether the upstream is to reply with a stream. `max_inputs`: limit on inputs in one request, or None.
    """

    __slots__ = ("_model", "_top", "adapted", "call", "headers", "max_inputs", "stream")

    def __init__(self, call: Call) -> None:
        self.call = call
        self._top: ObjectDraft | None = None
        self._model: str | None = None
        """The name that the target has for the model, which is written in place of the client's."""
        self.headers, self.adapted = call.headers, call.adapted
        self.stream, self.max_inputs = call.stream, call.max_inputs

    @property
    def top(self) -> ObjectDraft:
        if self._top is None:
            opened = self.call.opened()
            self._top = ObjectDraft(opened.listed, _Opened(opened.text), 1)
            if self._model is not None:
                self._top.put("model", msgspec.json.encode(self._model))
        return self._top

    @property
    def members(self) -> frozenset[str]:
        """The members that rules may change."""
        return self.call.operation.members

    @property
    def messages(self) -> list[ObjectDraft]:
        """The messages that are objects. The upstream rejects others."""
        messages = self.top.array("messages")
        return [] if messages is None else messages.objects()

    def make(self, changes: Iterable[Change]) -> list[Change]:
        """Make `changes`, and return those that applied."""
        made = [change for change in changes if change.apply_to(self)]
        # Several changes may have the same entry, such as two roles that move into the user message.
        self.adapted = (*self.adapted, *dict.fromkeys(change.entry for change in made))
        return made

    def name_model(self, model: str) -> None:
        """Write `model` in place of the client's name for it, or before all members of a body that names none.

        A body without other changes keeps its other bytes.
        """
        self._model = model
        if self._top is not None:  # nearly never: only the name changes
            self.top.put("model", msgspec.json.encode(model))

    def finished(self) -> Call:
        """Return the call with all changes, or the same object if there are none."""
        call, body, top = self.call, self.call.body, None
        if self._top is not None and self._top.is_changed:
            body = b"".join(self._top.pieces())
        elif self._model is not None:
            top = call.opened().with_model(self._model)
            body = top.text
        made = (body, self.headers, self.stream, self.max_inputs, self.adapted)
        if made == (call.body, call.headers, call.stream, call.max_inputs, call.adapted):
            return call
        _, headers, stream, most, adapted = made
        return call.with_body(body, top, headers=headers, stream=stream, max_inputs=most, adapted=adapted)
