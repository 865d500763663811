"""What a request asks for: the names of its tools, and its limit of tokens."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

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


class ToolNames:
    """The names of a request's tools, with the schema of their parameters as JSON."""

    __slots__ = ("_schemas", "_sorted")

    def __init__(self, schemas: Mapping[str, msgspec.Raw]) -> None:
        self._schemas, self._sorted = schemas, sorted(schemas)

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, name: str) -> bool:
        return name in self._schemas

    def begins(self, name: str) -> bool:
        """Return whether the name of a tool begins with `name` and is longer."""
        at = bisect_right(self._sorted, name)
        return at < len(self._sorted) and self._sorted[at].startswith(name)

    def requires_arguments(self, name: str) -> bool:
        """Return whether the schema of the tool `name` declares a required parameter."""
        try:
            return bool(msgspec.json.decode(self._schemas.get(name, b"{}"), type=_Schema).required)
        except (ValueError, RecursionError):
            return False


class Asked(Hidden):
    """A request, for the reading of its answer. `body` is what the upstream received.

    `top` has the members that were read when the request arrived or was translated: no later rule renames a tool. Both
    are opened only for an answer with a tool call, or one that may be cut.
    """

    __slots__ = ("_body", "_tools", "_top")

    def __init__(self, body: bytes = b"", top: TopLevel | None = None) -> None:
        self._body, self._top = body, top
        self._tools: ToolNames | None = None

    @property
    def tools(self) -> ToolNames:
        if self._tools is None:
            self._tools = ToolNames({tool.name: tool.parameters for tool in self._read_tools() if tool.name})
        return self._tools

    def _read_tools(self) -> Iterable[_Function]:
        with suppress(CallerError, ValueError, RecursionError):  # a body that gatepass does not open
            top = self._top or TopLevel(self._body or b"{}")
            lists = [found for found in map(top.get, ("tools", "functions")) if isinstance(found, list)]
            for entry in (entry for entries in lists for entry in entries):
                with suppress(msgspec.ValidationError):
                    tool = _TOOL.decode(entry)
                    yield tool.function or tool.custom or tool

    @property
    def most_tokens(self) -> float:
        try:
            stated = _LIMITS.decode(self._body)
        except (ValueError, RecursionError):
            return math.inf
        limits = (stated.max_tokens, stated.max_completion_tokens, stated.max_output_tokens)
        return min((limit for limit in limits if limit is not None), default=math.inf)


NOTHING = Asked()
"""Of a request that is not known."""
