"""Edit a JSON body with several changes, each of which sees the result of those before it, and write it once.

Only the parts that a change reads are parsed. Everything that no change touches keeps its bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.json_scan import Edit, JsonScanner, Member, edited, json_value, pieces, removals, string
from gatepass.types import Call, ClientProtocol


@dataclass(slots=True)
class _Slot:
    """One member or element: its position in the body (`member`), or a new `text`.

    `inner` edits its value, if a change opened it.
    """

    name: str = ""
    member: Member | None = None
    text: bytes | None = None
    inner: JsonObjectEditor | JsonArrayEditor | None = None
    renamed: bool = False
    gone: bool = False


class _Container(ABC):
    """The common part of objects and arrays: slots over the text of `scanner`, where `start` is the opening bracket."""

    __slots__ = ("_scanner", "_slots", "_start")

    def __init__(self, scanner: JsonScanner, start: int) -> None:
        self._scanner = scanner
        self._start = start
        self._slots: list[_Slot] | None = None

    def edits(self) -> list[Edit]:
        """Return the edits that turn the container's text into its new text."""
        if self._slots is None:
            return []
        existing = [(slot, slot.member) for slot in self._slots if slot.member is not None]
        result = removals([member for _, member in existing], {member for slot, member in existing if slot.gone})
        for slot, member in existing:
            if not slot.gone:
                result += self._slot_edits(slot, member)
        return [*result, *self._insertion([slot for slot in self._slots if slot.member is None and not slot.gone])]

    def _slot_edits(self, slot: _Slot, member: Member) -> Iterator[Edit]:
        if slot.renamed:
            # The last colon: a name may contain colons, too.
            before_colon = self._scanner.text[member.start : member.value].rpartition(b":")[0]
            yield Edit(member.start, member.start + len(before_colon.rstrip()), (_quoted(slot.name),))
        if slot.text is not None:
            yield Edit(member.value, member.end, (_new_text(slot),))
        elif slot.inner is not None:
            yield from slot.inner.edits()

    @abstractmethod
    def _insertion(self, added: list[_Slot]) -> list[Edit]:
        """Return the edit that inserts the new slots."""

    @abstractmethod
    def _list(self) -> list[_Slot]:
        """Return all slots, also those that are gone; parse them on the first call."""

    def _live(self) -> list[_Slot]:
        return [slot for slot in self._list() if not slot.gone]

    def _source(self, slot: _Slot) -> tuple[JsonScanner, int]:
        """Return the text that contains the slot's value, and the position of the value."""
        if slot.member is None or slot.text is not None:
            return JsonScanner(slot.text or b""), 0
        return self._scanner, slot.member.value

    def _kind(self, slot: _Slot) -> str:
        scanner, at = self._source(slot)
        return chr(scanner.text[at])

    def _text(self, slot: _Slot) -> bytes:
        if slot.member is None or slot.text is not None:
            return _new_text(slot)
        start, end = slot.member.value, slot.member.end
        return b"".join(pieces(self._scanner.text, slot.inner.edits() if slot.inner is not None else (), start, end))

    def _object(self, slot: _Slot) -> JsonObjectEditor | None:
        if slot.inner is None and self._kind(slot) == "{":
            slot.inner = JsonObjectEditor(*self._source(slot))
        return slot.inner if isinstance(slot.inner, JsonObjectEditor) else None

    def _array(self, slot: _Slot) -> JsonArrayEditor | None:
        if slot.inner is None and self._kind(slot) == "[":
            slot.inner = JsonArrayEditor(*self._source(slot))
        return slot.inner if isinstance(slot.inner, JsonArrayEditor) else None


class JsonObjectEditor(_Container):
    """An object. If a name occurs more than once, its last member is used, as every known parser does."""

    __slots__ = ()

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    @property
    def names(self) -> list[str]:
        return [slot.name for slot in self._live()]

    def text(self, name: str) -> bytes | None:
        """Return the member's value as JSON text, or None."""
        slot = self._find(name)
        return None if slot is None else self._text(slot)

    def kind(self, name: str) -> str | None:
        """Return the first character of the member's value: `{`, `[`, `"`, `t`, `f`, `n`, a digit or `-`; or None."""
        slot = self._find(name)
        return None if slot is None else self._kind(slot)

    def string(self, name: str) -> str | None:
        """Return the member's value if it is a string, else None."""
        slot = self._find(name)
        return string(self._text(slot)) if slot is not None and self._kind(slot) == '"' else None

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
        slot = self._find(name)
        return None if slot is None else self._object(slot)

    def array(self, name: str) -> JsonArrayEditor | None:
        slot = self._find(name)
        return None if slot is None else self._array(slot)

    def drop(self, name: str) -> bool:
        """Drop every member with that name; return whether there was one."""
        found = [slot for slot in self._live() if slot.name == name]
        for slot in found:
            slot.gone = True  # marked and not removed: the edit that deletes the member needs its position
        return bool(found)

    def keep(self, names: Collection[str]) -> bool:
        """Drop every other member; return whether there was one."""
        found = [slot for slot in self._live() if slot.name not in names]
        for slot in found:
            slot.gone = True
        return bool(found)

    def set(self, name: str, text: bytes) -> bool:
        """Set the member's value to the JSON `text`, or add the member at the end; return whether that changes it."""
        slot = self._find(name)
        if slot is None:
            self._list().append(_Slot(name, text=text))
            return True
        if self._text(slot) == text:
            return False
        slot.text, slot.inner = text, None  # an editor of the old value is void
        return True

    def rename(self, old: str, new: str) -> bool:
        """Rename the member `old` to `new`. If `new` exists, only drop `old`. Return whether there was an `old`."""
        slot = self._find(old)
        if slot is None or old == new:
            return False
        if new in self:
            return self.drop(old)
        slot.name, slot.renamed = new, True
        self.drop(old)  # further members with the old name
        return True

    def _find(self, name: str) -> _Slot | None:
        return next((slot for slot in reversed(self._list()) if slot.name == name and not slot.gone), None)

    def _list(self) -> list[_Slot]:
        if self._slots is None:
            self._slots = [_Slot(member.name, member) for member in self._scanner.members(self._start)]
        return self._slots

    def _insertion(self, added: list[_Slot]) -> list[Edit]:
        if not added:
            return []
        existing = [(slot, slot.member) for slot in self._list() if slot.member is not None]
        text = b",".join(_quoted(slot.name) + b":" + _new_text(slot) for slot in added)
        at = existing[-1][1].end if existing else self._start + 1
        comma = b"," if any(not slot.gone for slot, _ in existing) else b""  # dropped members take their commas along
        return [Edit(at, at, (comma + text,))]


class JsonArrayEditor(_Container):
    """An array. Positions count the present elements, without those that were dropped."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._live())

    def kind(self, index: int) -> str:
        """Return the first character of the element."""
        return self._kind(self._live()[index])

    def objects(self) -> list[JsonObjectEditor]:
        """Return the elements that are objects."""
        return [inner for slot in self._live() if (inner := self._object(slot)) is not None]

    def numbered(self) -> list[tuple[int, JsonObjectEditor]]:
        """Return the elements that are objects, with their positions."""
        found = ((index, self._object(slot)) for index, slot in enumerate(self._live()))
        return [(index, inner) for index, inner in found if inner is not None]

    def kinds(self) -> str:
        """Return the first characters of all elements."""
        return "".join(map(self._kind, self._live()))

    def texts(self) -> list[bytes]:
        """Return the elements as JSON texts."""
        return [self._text(slot) for slot in self._live()]

    def drop(self, indices: Iterable[int]) -> None:
        live = self._live()
        for index in indices:
            live[index].gone = True

    def insert(self, text: bytes) -> None:
        """Insert the JSON `text` before all other elements."""
        self._list().insert(0, _Slot(text=text))

    def _list(self) -> list[_Slot]:
        if self._slots is None:
            spans = self._scanner.elements(self._start)
            self._slots = [_Slot(member=Member("", start, start, end)) for start, end in spans]
        return self._slots

    def _insertion(self, added: list[_Slot]) -> list[Edit]:
        if not added:
            return []
        existing = [(slot, slot.member) for slot in self._list() if slot.member is not None]
        text = b",".join(_new_text(slot) for slot in added)
        at = existing[0][1].start if existing else self._start + 1
        comma = b"," if any(not slot.gone for slot, _ in existing) else b""
        return [Edit(at, at, (text + comma,))]


class JsonEditor:
    """The body of a call, to be edited.

    `stream`: whether the upstream is to reply with a stream. `max_inputs`: limit on inputs in one request, or None.
    """

    __slots__ = ("_call", "max_inputs", "stream", "top")

    def __init__(self, call: Call) -> None:
        self._call = call
        self.top = JsonObjectEditor(JsonScanner(call.body), call.body.index(b"{"))
        self.stream = call.stream
        self.max_inputs = call.max_inputs

    @property
    def protocol(self) -> ClientProtocol:
        return self._call.operation.protocol

    @property
    def messages(self) -> list[JsonObjectEditor]:
        """The messages that are objects. The upstream rejects others."""
        messages = self.top.array("messages")
        return [] if messages is None else messages.objects()

    def written(self) -> bytes:
        """Return the body with all changes, or the same object if there are none."""
        edits = self.top.edits()
        return edited(self._call.body, edits) if edits else self._call.body


def _new_text(slot: _Slot) -> bytes:
    text = slot.text or b""
    return edited(text, slot.inner.edits()) if slot.inner is not None else text


def _quoted(name: str) -> bytes:
    return msgspec.json.encode(name)
