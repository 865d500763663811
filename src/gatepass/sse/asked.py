"""What a request asks for: the names of its tools, and its limit of tokens."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import astuple

from gatepass.errors import CallerError
from gatepass.json_body import TopLevel
from gatepass.types import Hidden


class _Function(msgspec.Struct, frozen=True):
    name: str = ""
    parameters: msgspec.Raw = msgspec.Raw(b"null")


class _Tool(_Function, frozen=True):
    """A tool of a chat; or a legacy function, or a tool of another protocol, which have their names themselves."""

    function: _Function | None = None
    custom: _Function | None = None


class _Schema(msgspec.Struct, frozen=True):
    required: list[str] = []


class _Limits(msgspec.Struct, frozen=True):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None


_TOOL, _LIMITS = msgspec.json.Decoder(_Tool), msgspec.json.Decoder(_Limits)


MOST_TOOLS, MOST_TOOL_BYTES = 1024, 512 * 1024
"""The tools of a larger request are unknown. To read these takes up to 4 ms of the event loop; OpenAI allows 128."""


class Asked(Hidden):
    """A request, for the reading of its answer. `body` is what the upstream received.

    `top` has the members that were read when the request arrived or was translated: no later rule renames a tool. Both
    are opened only for an answer with a tool call, or one that may be cut.
    """

    __slots__ = ("_body", "_names", "_schemas", "_top")

    def __init__(self, body: bytes = b"", top: TopLevel | None = None) -> None:
        self._body, self._top = body, top
        self._schemas: dict[str, msgspec.Raw] | None = None
        self._names: Sequence[str] = ()

    @property
    def tools(self) -> Mapping[str, msgspec.Raw]:
        """The names of the tools, with the schema of their parameters as JSON."""
        if self._schemas is None:
            self._schemas = {tool.name: tool.parameters for tool in self._read_tools() if tool.name}
            self._names = sorted(self._schemas)
        return self._schemas

    def _read_tools(self) -> Iterable[_Function]:
        with suppress(CallerError, ValueError, RecursionError):  # a body that gatepass does not open
            top = self._open()
            texts = [top.values.get(name) for name in ("tools", "functions")]
            if any(isinstance(text, msgspec.Raw) and memoryview(text).nbytes > MOST_TOOL_BYTES for text in texts):
                return
            lists = [found for found in map(top.get, ("tools", "functions")) if isinstance(found, list)]
            entries = [entry for found in lists for entry in found]
            for entry in entries if len(entries) <= MOST_TOOLS else ():
                with suppress(msgspec.ValidationError):
                    tool = _TOOL.decode(entry)
                    yield tool.function or tool.custom or tool

    def _open(self) -> TopLevel:
        return self._top or TopLevel(self._body or b"{}")

    @property
    def expects_call(self) -> bool:
        """Whether tools are offered, and the answer may call one: not with a `tool_choice` of none."""
        choice: Any = None
        with suppress(CallerError, ValueError, RecursionError):
            choice = self._open().get("tool_choice") if self.tools else "none"
        return (choice.get("type") if isinstance(choice, dict) else choice) not in ("none", msgspec.Raw(b'"none"'))

    def is_beginning(self, name: str) -> bool:
        """Return whether the name of a tool begins with `name` and is longer."""
        at = bisect_right(self._names, name) if self.tools else 0
        return at < len(self._names) and self._names[at].startswith(name)

    def requires_arguments(self, name: str) -> bool:
        """Return whether the schema of the tool `name` declares a required parameter."""
        try:
            return bool(msgspec.json.decode(self.tools.get(name, b"{}"), type=_Schema).required)
        except (ValueError, RecursionError):
            return False

    @property
    def most_tokens(self) -> float:
        """The limit of tokens, infinite without one."""
        try:
            stated = _LIMITS.decode(self._body)
        except (ValueError, RecursionError):
            return math.inf
        return min((limit for limit in astuple(stated) if limit is not None), default=math.inf)


NOTHING = Asked()
"""Of a request that is not known."""
