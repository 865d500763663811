"""Edit a JSON body with several changes, each of which sees the result of those before it, and write it once.

Only the parts that a change reads are parsed. A value that no change touches keeps its bytes. An object or list with a
change is written without blanks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.json_body import SMALL_BYTES, Piece, json_value
from gatepass.json_scan import JsonScanner, quoted, string
from gatepass.types import Call, RuleEdit


class JsonValue:
    """The value of a member or an element: `scanner.text` from `start` to `end`, `new` pieces instead, or edited."""

    __slots__ = ("_end", "_new", "_scanner", "_start", "editor")

    def __init__(self, scanner: JsonScanner, start: int, end: int, new: tuple[Piece, ...] = ()) -> None:
        self._scanner = scanner
        self._start = start
        self._end = end
        self._new = new
        self.editor: JsonObjectEditor | JsonArrayEditor | None = None
        """What `object` or `array` made."""

    @property
    def kind(self) -> str:
        """The first character: `{`, `[`, `"`, `t`, `f`, `n`, a digit or `-`."""
        return chr(self._new[0][0] if self._new else self._scanner.text[self._start])

    @property
    def plain(self) -> str:
        """A boolean, null or a number of up to 32 characters; `kind` of every other value."""
        if (kind := self.kind) in '{["' or self.written_bytes > PLAIN_BYTES:
            return kind
        return self.text.decode()

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
    def written_bytes(self) -> int:
        """The size before changes inside of it."""
        return sum(map(len, self._new)) if self._new else self._end - self._start

    @property
    def has_escapes(self) -> bool:
        """Whether the client wrote the value with a backslash."""
        return self._scanner.text.find(b"\\", self._start, self._end) >= 0

    @property
    def object(self) -> JsonObjectEditor | None:
        if self.editor is None and self.kind == "{":
            self.editor = JsonObjectEditor(*self._source())
        return self.editor if isinstance(self.editor, JsonObjectEditor) else None

    @property
    def array(self) -> JsonArrayEditor | None:
        if self.editor is None and self.kind == "[":
            self.editor = JsonArrayEditor(*self._source())
        return self.editor if isinstance(self.editor, JsonArrayEditor) else None

    @property
    def is_changed(self) -> bool:
        return self.editor is not None and self.editor.is_changed

    def pieces(self) -> Iterator[Piece]:
        """Yield the JSON text. A long text is not copied."""
        text, start, end = self._scanner.text, self._start, self._end
        if self.editor is not None and self.editor.is_changed:
            yield from self.editor.pieces()
        elif self._new:
            yield from self._new
        else:  # a slice of a memoryview is not a copy, but takes more memory than a short text
            yield text[start:end] if end - start <= SMALL_BYTES else memoryview(text)[start:end]

    def _source(self) -> tuple[JsonScanner, int]:
        return (JsonScanner(self.text), 0) if self._new else (self._scanner, self._start)


_NO_TEXT = JsonScanner(b"")


def _new_value(new: tuple[Piece, ...]) -> JsonValue:
    return JsonValue(_NO_TEXT, 0, 0, new)


PLAIN_BYTES = 32
NAME_CHARS = 100
"""A longer name of a member is not shown. It is not cut, because the beginning of a secret would not be masked."""

_Change = tuple[str, JsonValue | None, JsonValue | None, str]
"""A changed place of an object or list: its name or `[index]`, its value before and after, its new name."""


def _edit(rule: str, path: str, change: _Change) -> RuleEdit:
    place, before, after, new_name = change
    return RuleEdit(
        rule,
        _below(path, place),
        "" if before is None else before.plain,
        0 if before is None else before.written_bytes,
        "" if after is None else after.plain,
        0 if after is None else after.size_bytes,
        _below(path, new_name) if new_name else "",
    )


def _below(path: str, place: str) -> str:
    shown = place if len(place) <= NAME_CHARS else f"({len(place)} characters)"
    return f"{path}.{shown}" if path and not place.startswith("[") else f"{path}{shown}"


class JsonObjectEditor:
    """An object. If a name occurs more than once, its last member is used, as every known parser does."""

    __slots__ = ("_changes", "_has_changed", "_members", "_scanner", "_start")

    def __init__(self, scanner: JsonScanner, start: int) -> None:
        self._scanner = scanner
        self._start = start
        self._members: dict[str, JsonValue] | None = None
        self._has_changed = False
        self._changes: list[_Change] | None = None
        """What changed since the last `take_edits`."""

    def __contains__(self, name: str) -> bool:
        return name in self._read()

    @property
    def names(self) -> Collection[str]:
        return self._read().keys()

    @property
    def is_changed(self) -> bool:
        return self._has_changed or any(value.is_changed for value in (self._members or {}).values())

    def pieces(self) -> Iterator[Piece]:
        sign = b"{"
        for name, value in self._read().items():
            yield sign + quoted(name) + b":"
            yield from value.pieces()
            sign = b","
        yield b"}" if self._members else b"{}"

    def get(self, name: str) -> JsonValue | None:
        return self._read().get(name)

    def text(self, name: str) -> bytes | None:
        """Return the member's value as JSON text, or None."""
        value = self._read().get(name)
        return None if value is None else value.text

    def small_text(self, name: str) -> bytes | None:
        """Return the member's value as JSON text if it has at most SMALL_BYTES, else None."""
        value = self._read().get(name)
        return None if value is None or value.size_bytes > SMALL_BYTES else value.text

    def kind(self, name: str) -> str | None:
        """Return the first character of the member's value, or None (see JsonValue)."""
        value = self._read().get(name)
        return None if value is None else value.kind

    def string(self, name: str) -> str | None:
        """Return the member's value if it is a string of at most SMALL_BYTES, else None."""
        value = self._read().get(name)
        return None if value is None else value.string

    def raw_string(self, name: str) -> bytes | None:
        """Return the JSON text between the quotes of the member's value if it is a string, else None."""
        text = self.text(name) if self.kind(name) == '"' else None
        return None if text is None else text[1:-1]

    def value(self, name: str) -> Any:
        """Return the member's value as a Python object, or None.

        Raises InvalidRequest for a number beyond any float (`1e999`) or of thousands of digits.
        """
        text = self.text(name)
        try:
            return None if text is None else json_value(text)
        except msgspec.ValidationError:  # JSON has no limit for numbers, msgspec has one
            raise InvalidRequest(f"`{name}` contains a number that is too large.", param=name) from None

    def object(self, name: str) -> JsonObjectEditor | None:
        value = self._read().get(name)
        return None if value is None else value.object

    def array(self, name: str) -> JsonArrayEditor | None:
        value = self._read().get(name)
        return None if value is None else value.array

    def drop(self, name: str) -> bool:
        """Drop the member; return whether there was one."""
        dropped = self._read().pop(name, None)
        if dropped is not None:
            self._note(name, dropped)
        return dropped is not None

    def set(self, name: str, *new: Piece) -> bool:
        """Set the member to the JSON text of `new`, or add it at the end; return whether that changes it."""
        if len(new) == 1 and self.text(name) == new[0]:
            return False
        members, value = self._read(), _new_value(new)
        self._note(name, members.get(name), value)
        members[name] = value
        return True

    def rename(self, old: str, new: str) -> bool:
        """Rename the member `old` to `new`. If `new` exists, only drop `old`. Return whether there was an `old`."""
        members = self._read()
        if old not in members or old == new:
            return False
        if new in members:
            return self.drop(old)
        self._note(old, members[old], members[old], new)
        self._members = {new if name == old else name: value for name, value in members.items()}
        return True

    def take_edits(self, rule: str, path: str = "") -> Iterator[RuleEdit]:
        """Yield what changed since the last call, as edits of `rule` below `path`."""
        changes, self._changes = self._changes, None
        for change in changes or ():
            yield _edit(rule, path, change)
        for name, value in (self._members or {}).items():
            if value.editor is not None:
                yield from value.editor.take_edits(rule, _below(path, name))

    def _note(self, name: str, before: JsonValue | None, after: JsonValue | None = None, new_name: str = "") -> None:
        self._has_changed = True
        if self._changes is None:
            self._changes = []
        self._changes.append((name, before, after, new_name))

    def _read(self) -> dict[str, JsonValue]:
        if self._members is None:
            scanner = self._scanner
            self._members = {one.name: JsonValue(scanner, one.value, one.end) for one in scanner.members(self._start)}
        return self._members


class JsonArrayEditor:
    """An array. Positions count the present elements, without those that were dropped."""

    __slots__ = ("_changes", "_elements", "_has_changed")

    def __init__(self, scanner: JsonScanner, start: int) -> None:
        self._elements = [JsonValue(scanner, *span) for span in scanner.elements(start)]
        self._has_changed = False
        self._changes: list[_Change] = []
        """What changed since the last `take_edits`."""

    def __len__(self) -> int:
        return len(self._elements)

    @property
    def is_changed(self) -> bool:
        return self._has_changed or any(element.is_changed for element in self._elements)

    def pieces(self) -> Iterator[Piece]:
        sign = b"["
        for element in self._elements:
            yield sign
            yield from element.pieces()
            sign = b","
        yield b"]" if self._elements else b"[]"

    def __iter__(self) -> Iterator[JsonValue]:
        return iter(self._elements)

    def objects(self) -> list[JsonObjectEditor]:
        return [one for _, one in self.numbered()]

    def numbered(self) -> list[tuple[int, JsonObjectEditor]]:
        """Return the elements that are objects, with their positions."""
        found = ((index, element.object) for index, element in enumerate(self._elements))
        return [(index, one) for index, one in found if one is not None]

    def drop(self, indices: Iterable[int]) -> None:
        dropped = frozenset(indices)
        self._changes += [
            (f"[{index}]", element, None, "") for index, element in enumerate(self._elements) if index in dropped
        ]
        self._elements = [element for index, element in enumerate(self._elements) if index not in dropped]
        self._has_changed = self._has_changed or bool(dropped)

    def insert(self, index: int, *new: Piece) -> None:
        """Insert the JSON text of `new` before the element at `index`, or at the end."""
        value = _new_value(new)
        self._changes.append((f"[{index}]", None, value, ""))
        self._elements.insert(index, value)
        self._has_changed = True

    def take_edits(self, rule: str, path: str) -> Iterator[RuleEdit]:
        """Yield what changed since the last call, as edits of `rule` below `path`."""
        changes, self._changes = self._changes, []
        for change in changes:
            yield _edit(rule, path, change)
        for index, element in enumerate(self._elements):
            if element.editor is not None:
                yield from element.editor.take_edits(rule, f"{path}[{index}]")


class JsonEditor:
    """The body of a call and its `headers`, to be edited.

    `stream`: whether the upstream is to reply with a stream. `max_inputs`: limit on inputs in one request, or None.
    """

    __slots__ = ("_call", "_noted_headers", "edits", "headers", "max_inputs", "stream", "top")

    def __init__(self, call: Call) -> None:
        self._call = call
        self.top = JsonObjectEditor(JsonScanner(call.body), call.body.index(b"{"))
        self.headers = self._noted_headers = call.headers
        self.edits = call.edits
        """What the rules changed so far (`note_edits`)."""
        self.stream = call.stream
        self.max_inputs = call.max_inputs

    @property
    def members(self) -> frozenset[str]:
        """The members that rules may change."""
        return self._call.operation.members

    @property
    def messages(self) -> list[JsonObjectEditor]:
        """The messages that are objects. The upstream rejects others."""
        messages = self.top.array("messages")
        return [] if messages is None else messages.objects()

    def may_name(self, name: str) -> bool:
        """Whether the body may contain a member of this name, spelled without escapes. Faster than to look for it."""
        return b'"%b"' % name.encode() in self._call.body

    def count(self, words: bytes) -> int:
        return self._call.body.count(words)

    def note_edits(self, rule: str) -> None:
        """Add what changed since the last call to `edits`, as changes of `rule`. Call it after each change."""
        noted = self.edits.with_more(self.top.take_edits(rule))
        if self.headers is not self._noted_headers:
            before, after = self._noted_headers, self.headers
            for name in dict.fromkeys(name for name, _ in (*before, *after)):
                old, new = (b"".join(value for key, value in fields if key == name) for fields in (before, after))
                if old != new:  # with the size of all values of the field
                    kinds = ('"' if old else "", len(old), '"' if new else "", len(new))
                    noted = noted.with_more((RuleEdit(rule, name.decode("latin-1"), *kinds),))
            self._noted_headers = after
        self.edits = noted

    def written(self) -> bytes:
        """Return the body with all changes, or the same object if there are none."""
        return b"".join(self.top.pieces()) if self.top.is_changed else self._call.body


@dataclass(frozen=True, slots=True)
class FixedChange:
    """A Change without settings."""

    entry: str
    apply_to: Callable[[JsonEditor], bool]


def fixed_change(entry: str) -> Callable[[Callable[[JsonEditor], bool]], FixedChange]:
    """Make a Change of the decorated function, which edits the body and returns whether it changed."""
    return lambda apply_to: FixedChange(entry, apply_to)
