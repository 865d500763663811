"""A whole reply made from a stream, for an upstream that only streams or streamed without being asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Protocol

from gatepass.errors import GatepassError, UpstreamInvalid
from gatepass.sse import failure
from gatepass.sse.aggregate import Choice, TextChoice, keep_last, new_choice
from gatepass.sse.chunk import (
    CHAT,
    ENVELOPE,
    LEGACY,
    Object,
    Origin,
    envelope,
    error_of,
    has_too_many_pieces,
    is_chunk,
    json_text,
    unwrapped,
)
from gatepass.sse.event import is_json, parse_event, read_json, single_line_data
from gatepass.sse.framing import Framer, split_events
from gatepass.sse.transform import Shaper
from gatepass.types import Complaint

MAX_CHOICES = 1024
"""More are no answer to any request (OpenAI takes an `n` of 128), and each costs memory."""

_KNOWN = frozenset({*ENVELOPE, "choices", "usage", "obfuscation"})
"""`obfuscation` pads each event of OpenAI's by random letters; a plain reply has none."""


class Aggregator:
    """Takes the events of one stream, gives the `chat.completion` (or `text_completion`) that they are.

    `failure` is set as soon as there will be no answer: the upstream's own error event in its own
    words, an event that is no JSON, more than `limit_bytes` of events. `finish` raises it, and raises
    `upstream_closed` for a stream that was cut: one with neither `[DONE]` nor a finish reason for each
    of `choices`, or with a choice that `is_cut` before `[DONE]`. No call after `failure` keeps anything.

    `read_error` reads an upstream's error out of a JSON value, or returns None.
    """

    __slots__ = (
        "_bytes_left",
        "_choices",
        "_choices_wanted",
        "_envelope",
        "_is_done",
        "_is_over",
        "_missing",
        "_origin",
        "_read_error",
        "_rest",
        "_upstream",
        "_usage",
        "failure",
    )

    def __init__(
        self,
        upstream: str,
        limit_bytes: int,
        read_error: Callable[[Any], Complaint | None],
        origin: Origin,
        *,
        choices: int = 1,
    ) -> None:
        self.failure: GatepassError | None = None
        self._upstream = upstream
        self._bytes_left = limit_bytes
        self._read_error = read_error
        self._origin = origin
        self._choices_wanted = choices
        self._choices: dict[int, Choice] = {}
        self._envelope: Object = {}
        self._missing: tuple[str, ...] = ENVELOPE
        self._rest: Object = {}
        self._usage: Object | None = None
        self._is_done = self._is_over = False

    def feed(self, run: bytes) -> None:
        """Take a run of whole events, of any line ends."""
        if self._is_over:
            return
        self._bytes_left -= len(run)
        if self._bytes_left < 0:
            self.fail(_too_large(self._upstream))
            return
        if (data := single_line_data(run)) is not None:
            self._add(data.strip(), b"")
            return
        for block in split_events(run):
            self._take(block)

    def finish(self) -> bytes:
        """The reply as JSON; raises `failure`, or that there was no answer or only a part of one."""
        if self.failure is None and not self._choices:
            self.failure = failure.empty(self._upstream)
        elif self.failure is None and not self._is_complete:
            self.failure = failure.closed(self._upstream)
        elif self.failure is None and not any(choice.has_said for choice in self._choices.values()):
            self.failure = failure.empty(self._upstream)
        elif self.failure is None and any(choice.is_cut for choice in self._choices.values()):
            self.failure = failure.closed(self._upstream)
        if self.failure is not None:
            raise self.failure
        try:
            return json_text(self._document())
        except ValueError:
            raise failure.no_json(self._upstream) from None

    @property
    def is_over(self) -> bool:
        """Whether nothing that may come matters any more: `[DONE]` was here, or there is a failure."""
        return self._is_over

    @property
    def _is_complete(self) -> bool:
        if self._is_done:
            return True
        finished = [choice.has_finished for choice in self._choices.values()]
        return len(finished) >= self._choices_wanted and all(finished)

    def fail(self, error: GatepassError) -> None:
        """There will be no answer: `error` says why."""
        self.failure = error
        self._is_over = True
        self._choices, self._rest = {}, {}

    def _take(self, block: bytes) -> None:
        """One event of several; after the last one that counts nothing is done."""
        if self._is_over:
            return
        data, name = single_line_data(block), b""
        if data is None:
            event = parse_event(block)
            data, name = event.data or b"", event.name
        self._add(data.strip(), name)

    def _add(self, data: bytes, name: bytes) -> None:
        if not data or data.startswith(b":"):
            return
        if data == b"[DONE]":
            self._is_done = self._is_over = True
            return
        try:
            said = read_json(data)
        except ValueError:
            if name != b"error":
                self.fail(failure.no_json(self._upstream))
                return
            said = data.decode("utf-8", "replace")
        self._add_said(said, name)

    def _add_said(self, said: Any, name: bytes) -> None:
        fields = said if isinstance(said, dict) else {}
        choices = fields.get("choices")
        if name == b"error" or not choices or fields.get("error") or fields.get("object") == "error":
            complaint = self._read_error(said)
            if complaint is None and name == b"error":
                complaint = self._read_error({"error": said}) or failure.UNREADABLE
            if complaint is not None:
                self.fail(failure.refusal(self._upstream, complaint))
                return
            fields = unwrapped(fields)
            choices = fields.get("choices")
            if not is_chunk(fields):
                return
        elif (error := error_of(choices)) is not None:
            complaint = self._read_error({"error": error}) or failure.UNREADABLE
            self.fail(failure.refusal(self._upstream, complaint))
            return
        if isinstance(choices, list):
            if has_too_many_pieces(choices):
                self.fail(failure.too_many(self._upstream))
                return
            self._add_choices(choices)
        self._add_rest(fields)

    def _add_choices(self, choices: list[Any]) -> None:
        for place, said in enumerate(choices):
            if not isinstance(said, dict):
                continue
            index = said.get("index")
            if type(index) is not int:
                index = place
            choice = self._choices.get(index)
            if choice is None:
                if len(self._choices) >= MAX_CHOICES:
                    self.fail(failure.too_many(self._upstream))
                    return
                choice = self._choices[index] = new_choice(said)
            choice.add(said)

    def _add_rest(self, fields: Object) -> None:
        usage = fields.get("usage")
        if usage and isinstance(usage, dict):
            self._usage = usage
        for name in self._missing:
            if fields.get(name):
                self._envelope[name] = fields[name]
                self._missing = tuple(other for other in ENVELOPE if other not in self._envelope)
        if not (fields.keys() <= _KNOWN or self._is_over):
            for name, value in fields.items():
                if name not in _KNOWN:
                    keep_last(self._rest, name, value)

    def _document(self) -> Object:
        is_text = any(isinstance(choice, TextChoice) for choice in self._choices.values())
        head = envelope(self._envelope, self._origin, LEGACY if is_text else CHAT, "cmpl-" if is_text else "chatcmpl-")
        found = sorted(self._choices.items(), key=itemgetter(0))
        choices = [choice.whole(index, self._origin) for index, choice in found]
        usage: Object = {} if self._usage is None else {"usage": self._usage}
        return {**head, "choices": choices, **usage, **self._rest}


def _too_large(upstream: str) -> GatepassError:
    return UpstreamInvalid("The upstream's answer is larger than limits.reply_bytes.", upstream=upstream)


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
