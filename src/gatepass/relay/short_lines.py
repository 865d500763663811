"""A stream whose lines stay short, for a client that takes no long ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gatepass.relay.chunk import ENVELOPE, Object, event
from gatepass.relay.event import parse_event, read_json
from gatepass.relay.framing import split_comments, split_events

LINE = "repair=line"
BYTES_PER_CHAR = 6
"""At most, in JSON: `\\u0000`."""
OVERHEAD_BYTES = 4096
"""For what stands around a text in its chunk."""

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class ShortLines:
    """Cuts a chunk that is longer than `limit_bytes` into several: its texts and the arguments of its tool calls.

    RAGFlow's Go client gives up on a line of 1 MiB (bufio.Scanner in its internal/entity/models). The first chunk of
    several holds all else that the long one held, the last one the finish reasons and the usage. What has no text that
    could be cut, such as audio, passes as it is.
    """

    __slots__ = ("_has_cut", "_limit_bytes", "_piece_chars")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._piece_chars = max(1, (limit_bytes - OVERHEAD_BYTES) // BYTES_PER_CHAR)
        self._has_cut = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (LINE,) if self._has_cut else ()

    def feed(self, block: bytes) -> bytes:
        """A run that is short as a whole, as nearly every one is, is not looked at."""
        if len(block) <= self._limit_bytes:
            return block
        return each_event(block, lambda one: self._short(one) if len(one) > self._limit_bytes else one)

    def finish(self) -> bytes:
        return b""

    def _short(self, block: bytes) -> bytes:
        try:
            said = read_json(parse_event(block).data or b"")
        except ValueError:
            return block
        choices = said.get("choices") if isinstance(said, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return block
        return self._cut(said, choices) or block

    def _cut(self, said: Object, choices: list[Object]) -> bytes:
        """The chunks, b"" where there is nothing to cut."""
        later = [piece for choice in choices for piece in self._later(choice)]
        if not later:
            return b""
        self._has_cut = True
        envelope = {name: said[name] for name in ENVELOPE if name in said}
        ends = [_end(choice) for choice in choices if choice.get("finish_reason")]
        first = {**said, "choices": [{**choice, "finish_reason": None} for choice in choices]}
        last: Object = {**envelope, "choices": ends}
        if "usage" in said:
            first["usage"], last["usage"] = None, said["usage"]
        parts = [first, *({**envelope, "choices": [piece]} for piece in later)]
        if ends or said.get("usage"):
            parts.append(last)
        return b"".join(map(event, parts))

    def _later(self, choice: Object) -> Iterable[Object]:
        """What is cut off the choice's delta, as choices of later chunks; the delta keeps the beginnings."""
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        for name in _TEXTS:
            for piece in self._off(delta, name):
                yield _piece(choice, {name: piece})
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function") if isinstance(call, dict) else None
            for piece in self._off(function, "arguments") if isinstance(function, dict) else ():
                yield _piece(choice, {"tool_calls": [{"index": call.get("index"), "function": {"arguments": piece}}]})

    def _off(self, owner: Object, name: str) -> list[str]:
        """Leave the first piece of the text there; the others."""
        text, size = owner.get(name), self._piece_chars
        if not isinstance(text, str) or len(text) <= size:
            return []
        owner[name] = text[:size]
        return [text[at : at + size] for at in range(size, len(text), size)]


def each_event(block: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A run with `change` made to each event; the same object where nothing changed. Comments at its end stay."""
    run, rest = split_comments(block)
    events = split_events(run)
    shaped = [change(one) for one in events]
    return block if shaped == events else b"".join([*shaped, rest])


def _piece(choice: Object, delta: Object) -> Object:
    return {"index": choice.get("index", 0), "delta": delta, "finish_reason": None}


def _end(choice: Object) -> dict[str, Any]:
    return {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice["finish_reason"]}
