"""A plain reply out of the bytes of one stream, as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gatepass.errors import GatepassError
from gatepass.relay import failure
from gatepass.relay.event import is_json, parse_event
from gatepass.relay.framing import Framer
from gatepass.relay.shaper import Shaper

_BOM = b"\xef\xbb\xbf"


class Aggregating(Protocol):
    """What makes one reply of whole events: of a chat's (aggregator.py), or of a response's (relay/responses/)."""

    @property
    def is_over(self) -> bool: ...
    def feed(self, run: bytes) -> None: ...
    def fail(self, error: GatepassError) -> None: ...
    def finish(self) -> bytes: ...


class Assembly:
    """Takes the pieces of a body, gives the reply: frames the events, shapes them, and adds them up.

    It wants no more after the last event or the first error. What is held is one event of `event_limit_bytes`, what
    the shapers hold, and the answer, which the aggregator bounds. A last event without its blank line counts
    where it is whole.
    """

    __slots__ = ("_aggregator", "_framer", "_has_begun", "_shapers", "_upstream")

    def __init__(
        self, upstream: str, aggregator: Aggregating, event_limit_bytes: int, shapers: Sequence[Shaper] = ()
    ) -> None:
        self._upstream = upstream
        self._aggregator = aggregator
        self._framer = Framer(event_limit_bytes)
        self._shapers = tuple(shapers)
        self._has_begun = False

    @property
    def adapted(self) -> tuple[str, ...]:
        """What its shapers have changed so far."""
        return tuple(dict.fromkeys(name for shaper in self._shapers for name in shaper.adapted))

    def feed(self, piece: bytes) -> bool:
        """Whether more is wanted after `piece`."""
        if run := self._framer.feed(piece):
            self._add(run)
        if self._framer.overflowed:
            self._aggregator.fail(failure.too_large(self._upstream))
        return not self._aggregator.is_over

    def finish(self) -> bytes:
        """The reply as JSON; raises what the aggregator's `finish` does."""
        tail = self._framer.tail
        data = (parse_event(tail + b"\n\n").data or b"").strip()
        if is_json(data) or data == b"[DONE]":
            self._add(tail + b"\n\n")
        for at, shaper in enumerate(self._shapers):
            self._shape(shaper.finish(), at + 1)
        return self._aggregator.finish()

    def _add(self, run: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            run = run.removeprefix(_BOM)
        self._shape(run, 0)

    def _shape(self, run: bytes, first: int) -> None:
        for shaper in self._shapers[first:]:
            if run:
                run = shaper.feed(run)
        if run:
            self._aggregator.feed(run)
