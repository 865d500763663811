"""What surrounds the choices of a chunk: its envelope, and extras that came without choices."""

from __future__ import annotations

from typing import Any, Literal

from gatepass.relay.chunk import ENVELOPE, Object, finish_reason
from gatepass.relay.repair import wishes as names
from gatepass.relay.repair.tools import Note

MAX_MOVED_BYTES = 65_536
"""What may wait for a chunk with choices; larger extras go on where they stand."""

_REQUIRED = ("id", "object", "created", "model")
_SOUGHT = frozenset(_REQUIRED)
_BARE = frozenset({*ENVELOPE, "choices", "usage", "obfuscation"})
_SAYS_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Envelope:
    """The envelope of one stream, as its first chunks told it."""

    __slots__ = ("_has_one_id", "_is_known", "told")

    def __init__(self, *, one_id: bool) -> None:
        self.told: Object = {}
        self._has_one_id = one_id
        self._is_known = False

    def fill(self, chunk: Object, note: Note) -> None:
        """Give `chunk` the members that it lacks, and the stream's id where all chunks are to have one."""
        told = self.told
        for name in _REQUIRED:
            if not chunk.get(name) and name in told:
                chunk[name] = told[name]
                note(names.ENVELOPE)
        if not self._is_known:
            self.learn(chunk)
        if self._has_one_id and "id" in told and chunk.get("id") != told["id"]:
            chunk["id"] = told["id"]
            note(names.ONE_ID)

    def learn(self, chunk: Object) -> None:
        """Remember what `chunk` says of the envelope for the first time."""
        self.told |= {name: chunk[name] for name in ENVELOPE if chunk.get(name) and name not in self.told}
        self._is_known = self.told.keys() >= _SOUGHT


class Extras:
    """What came without choices and waits for a chunk that has some."""

    __slots__ = ("_held", "_held_bytes", "_wish")

    def __init__(self, wish: Literal["move", "keep", "drop"]) -> None:
        self._wish = wish
        self._held: Object = {}
        self._held_bytes = 0

    def stay(self, chunk: Object, size_bytes: int) -> bool:
        """Whether a chunk of `size_bytes` without choices goes on as it is; if not, what it says is held
        or dropped."""
        said = {name: value for name, value in chunk.items() if name not in _BARE and value not in _SAYS_NOTHING}
        if not said or self._wish == "drop":
            return False
        if self._wish == "keep" or self._held_bytes + size_bytes > MAX_MOVED_BYTES:
            return True
        self._held |= said
        self._held_bytes += size_bytes
        return False

    def join(self, chunk: Object) -> bool:
        """Put what is held into `chunk`; False if nothing is."""
        if not self._held:
            return False
        held, self._held, self._held_bytes = self._held, {}, 0
        for name, value in held.items():
            chunk.setdefault(name, value)
        return True


def is_ping(said: Object) -> bool:
    """Whether an event that is no chunk says nothing to anybody: a ping, or the empty envelope of a
    gateway that wraps its chunks, of success (a failure is an error, and no ping)."""
    if "data" in said and said.get("code") in (0, "0", 200, "200"):
        return said["data"] is True or said["data"] in _SAYS_NOTHING
    return not said or "ping" in (said.get("type"), said.get("event"))


def is_whole(chunk: Object) -> bool:
    """Whether this is a completion, all of it, and no piece of one: a piece may have a `message` too, and
    call itself what the whole is called, but only a whole has a finish reason."""
    choices = chunk["choices"]
    if not all(
        isinstance(one, dict) and "delta" not in one and isinstance(one.get("message"), dict) for one in choices
    ):
        return False
    return any(finish_reason(one) for one in choices)
