"""One response made of a stream of the Responses API: for an upstream that only streams, or did without being asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gatepass.errors import GatepassError, UpstreamInvalid
from gatepass.sse import failure
from gatepass.sse.chunk import Object, json_text
from gatepass.sse.document import kind_of
from gatepass.sse.event import parse_event, read_json
from gatepass.sse.framing import split_events
from gatepass.types import Complaint

LAST_EVENTS = frozenset(("response.completed", "response.failed", "response.incomplete"))
"""How the stream of a response ends: its clients wait for one of these, and find the whole response in it."""

_SAYING = ("delta", "text", "arguments")
"""The members in which an event tells a part of an item."""


class ResponseAggregator:
    """Takes the events of one stream, gives the response of its last event.

    Where that has no output (a gateway that keeps nothing sends it so) it is made of the items that were done:
    those with an `output_index` in its order, then those without one. An empty output after a text or the arguments of
    an item that was never done is `upstream_invalid`: the whole of that item nobody told.

    `failure` is set as soon as there will be no answer: an error event, a response that failed with an error, in the
    upstream's own words, an event that is no JSON, more than `limit_bytes` of events. `finish` raises it, and
    `upstream_closed` for a stream that was cut.

    `read_error` reads an upstream's error out of a JSON value, or returns None.
    """

    __slots__ = (
        "_bytes_left",
        "_has_begun",
        "_is_done",
        "_items",
        "_read_error",
        "_response",
        "_told",
        "_unplaced",
        "_upstream",
        "failure",
    )

    def __init__(self, upstream: str, limit_bytes: int, read_error: Callable[[Any], Complaint | None]) -> None:
        self.failure: GatepassError | None = None
        self._upstream = upstream
        self._bytes_left = limit_bytes
        self._read_error = read_error
        self._items: dict[int, Object] = {}
        self._unplaced: list[Object] = []
        self._told: set[int] = set()
        self._response: Object | None = None
        self._has_begun = self._is_done = False

    @property
    def is_over(self) -> bool:
        """Whether nothing that may come matters any more."""
        return self._is_done or self.failure is not None

    def feed(self, run: bytes) -> None:
        """Take a run of whole events, of any line ends."""
        for block in split_events(run):
            if self.is_over:
                return
            self._bytes_left -= len(block)
            if self._bytes_left < 0:
                larger = "The upstream's answer is larger than limits.reply_bytes."
                self.fail(UpstreamInvalid(larger, upstream=self._upstream))
                return
            self._take(block)

    def fail(self, error: GatepassError) -> None:
        """There will be no answer: `error` says why."""
        self.failure = error
        self._items, self._unplaced = {}, []

    def finish(self) -> bytes:
        """The response as JSON; raises `failure`, or that there was none or only a part of one."""
        if self.failure is None and self._response is None:
            self.failure = (failure.closed if self._has_begun else failure.empty)(self._upstream)
        if self.failure is not None:
            raise self.failure
        try:
            return json_text(self._response)
        except ValueError:
            raise failure.no_json(self._upstream) from None

    def _take(self, block: bytes) -> None:
        event = parse_event(block)
        data = (event.data or b"").strip()
        if not data or data.startswith(b":"):
            return
        if data == b"[DONE]":
            self._is_done = True
            return
        try:
            said = read_json(data)
        except ValueError:
            if event.name != b"error":
                self.fail(failure.no_json(self._upstream))
                return
            said = data.decode("utf-8", "replace")
        self._add(said, event.name)

    def _add(self, said: Any, name: bytes) -> None:
        fields = said if isinstance(said, dict) else {}
        kind = kind_of(fields)
        is_error = name == b"error" or kind == "error"
        complaint = self._read_error(said) or (self._read_error({"error": said}) if is_error else None)
        if complaint is not None or is_error:
            self.fail(failure.refusal(self._upstream, complaint or failure.UNREADABLE))
            return
        self._has_begun = True
        if kind == "response.output_item.done":
            self._keep(fields.get("output_index"), fields.get("item"))
        elif kind in LAST_EVENTS and isinstance(fields.get("response"), dict):
            self._end(fields["response"])
        elif any(fields.get(name) for name in _SAYING):
            index = fields.get("output_index")
            self._told.add(index if type(index) is int else 0)

    def _keep(self, index: Any, item: Any) -> None:
        if not isinstance(item, dict):
            return
        if type(index) is int:
            self._items[index] = item
        else:
            self._unplaced.append(item)

    def _end(self, response: Object) -> None:
        error = response.get("error")
        if error:
            self.fail(failure.refusal(self._upstream, self._read_error({"error": error}) or failure.UNREADABLE))
            return
        if not response.get("output"):
            if len(self._told - self._items.keys()) > len(self._unplaced):
                lost = "The upstream's last event has no output, though its stream had told of some."
                self.fail(UpstreamInvalid(lost, upstream=self._upstream))
                return
            if items := [*(item for _, item in sorted(self._items.items())), *self._unplaced]:
                response = {**response, "output": items}
        self._response, self._is_done = response, True
