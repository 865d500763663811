"""The tool calls of one choice, each whole again."""

from __future__ import annotations

from typing import Any

from gatepass.relay.aggregation.gather import keep_last
from gatepass.relay.calls import Calls, ToolCall
from gatepass.relay.chunk import Object, Origin, json_text

_KNOWN = frozenset({"index", "id", "type", "function", "custom"})
_NAMED = frozenset({"name", "arguments", "input"})


class Tools:
    """Puts tool deltas together; calls come out in the order of appearance, without `index`."""

    __slots__ = ("_calls", "_whole")

    def __init__(self) -> None:
        self._calls = Calls()
        self._whole: list[_Call] = []

    def __len__(self) -> int:
        return len(self._whole)

    def add(self, entries: list[Any]) -> None:
        for piece in self._calls.place(entries):
            if piece.opens:
                self._whole.append(_Call(piece.call))
            self._whole[piece.call.number].add(piece.said)

    def whole(self, origin: Origin) -> list[Object]:
        return [call.whole(origin) for call in self._whole]


class _Call:
    """One call. Its id, type and name count once, whatever repeats them; its arguments are joined."""

    __slots__ = ("_arguments", "_call", "_inner", "_kind", "_name", "_rest", "_type")

    def __init__(self, call: ToolCall) -> None:
        self._call = call
        self._kind = "function"
        self._type = self._name = ""
        self._arguments: list[str] = []
        self._rest: Object = {}
        self._inner: Object = {}

    def add(self, said: Object) -> None:
        kind = said.get("type")
        if isinstance(kind, str) and not self._type:
            self._type = kind
        for name, value in said.items():
            if name in ("function", "custom") and isinstance(value, dict):
                self._kind = name
                self._add_inner(value)
            elif name not in _KNOWN:
                keep_last(self._rest, name, value)

    def _add_inner(self, said: Object) -> None:
        name = said.get("name")
        if isinstance(name, str) and not self._name:
            self._name = name
        arguments = said.get("arguments", said.get("input"))
        if arguments is not None:
            self._arguments.append(arguments if isinstance(arguments, str) else json_text(arguments).decode())
        if said.keys() - _NAMED:
            for key, value in said.items():
                if key not in _NAMED:
                    keep_last(self._inner, key, value)

    def whole(self, origin: Origin) -> Object:
        text = "input" if self._kind == "custom" else "arguments"
        return {
            "id": self._call.id or origin.new_id("call_"),
            "type": self._type or self._kind,
            self._kind: {"name": self._name, text: "".join(self._arguments), **self._inner},
            **self._rest,
        }
