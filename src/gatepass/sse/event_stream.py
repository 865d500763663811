"""Validate the event stream of an upstream while it passes, and decide whether it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatepass.errors import GatepassError
from gatepass.sse import chunk
from gatepass.sse.chunk import (
    MAX_ENTRIES_MIN_BYTES,
    ReadError,
    error_in_event,
    finish_reason,
    has_output,
    has_too_many_entries,
    unwrap,
)
from gatepass.sse.event import (
    DONE,
    EventTransform,
    Framer,
    count_lines,
    first_event,
    first_events,
    has_too_many_lines,
    is_json,
    parse_event,
    read_json,
    single_line_data,
    split_events,
)
from gatepass.sse.fast_path import FastPath
from gatepass.sse.repair import StreamRepair
from gatepass.sse.usage import Usage
from gatepass.types import UpstreamErrorBody

BYTE_ORDER_MARK, ID_COMMENTS, EMPTY_DATA = "sse=bom", "sse=id-comments", "sse=empty-data"
LAST_EVENT, ADDED_DONE = "sse=last-event", "sse=done"
NAMES = (BYTE_ORDER_MARK, ID_COMMENTS, EMPTY_DATA, LAST_EVENT, ADDED_DONE)
"""The changes that validation makes, in the order of the names:

* It removes a byte order mark, because clients lose the first event after one.
* It removes the blank line after a block of comments if an `id:` was sent before. Otherwise openai-python makes an
  empty event of the block and fails (openai/openai-python issues 2722, 3833).
* It removes events without data, and events whose data is empty or a comment, because clients fail at them too.
* It adds the blank line that the last event lacks, because clients ignore an unfinished event.
* It adds `[DONE]` to a stream that is complete without it.
"""

_BOM = b"\xef\xbb\xbf"

_BLANK_LINES = (b"\n", b"\r\n", b"\r")

TURN_LINES = 512
"""This many lines are validated before the event loop must run. A line takes up to 20 µs, even a blank one."""


class EventStream:
    """Take the pieces of an upstream's body, and return the bytes to write to the client.

    An event is returned with its last byte, and unchanged apart from `NAMES`. The stream is complete when a whole
    `[DONE]` arrived, or when its body ended cleanly and every choice had its finish reason. Any other end is a failure,
    and no `[DONE]` is returned before it. At `[DONE]` a `repair` adds the finish reason that a choice lacks, or reports
    that the choice was cut, which is a failure too.

    The state after each call:

    * `failure` is set as soon as the stream must end with an error. The bytes returned so far are valid, those of the
      same call included. An error event of the upstream is not among them, because the caller writes an error event in
      gatepass's form. After `done` or a failure no more bytes are returned.
    * `has_answered`: an event with choices was returned.
    * `events` is the number of JSON events returned, without errors and `[DONE]`.
    * `waiting` holds the whole events that are left when TURN_LINES are used up. The caller lets the event loop run,
      and then calls `feed` without a piece. Events that the fast path matches do not count, because they cost little.

    The arguments:

    * `event_limit_bytes` limits one event. It also limits the comments, blank lines and events without data between
      two events.
    * `choices` is the number of choices that the call requests.
    * `done_is_required`: if it is false, every body that ended cleanly is complete.
    * `last_types` are values of `type`. The first event with one of them ends the stream, as `[DONE]` does.
    * `dialect_transform` changes events before validation.
    * `client_transform` changes events after validation, and delays none.
    """

    __slots__ = (
        "_adapted",
        "_after",
        "_before",
        "_choices",
        "_done_is_required",
        "_event_limit_bytes",
        "_events_before",
        "_fast_path",
        "_framer",
        "_has_begun",
        "_has_ids",
        "_idle_bytes",
        "_is_over",
        "_last_types",
        "_lines_left",
        "_progress",
        "_read_error",
        "_repair",
        "_upstream",
        "done",
        "events",
        "failure",
        "has_answered",
        "waiting",
    )

    def __init__(
        self,
        upstream: str,
        event_limit_bytes: int,
        read_error: ReadError,
        done_is_required: bool = True,
        *,
        last_types: frozenset[str] = frozenset(),
        choices: int = 1,
        dialect_transform: EventTransform | None = None,
        repair: StreamRepair | None = None,
        client_transform: EventTransform | None = None,
    ) -> None:
        self.failure: GatepassError | None = None
        self.done = self.has_answered = False
        self.events = 0
        self._upstream = upstream
        self._read_error = read_error
        self._done_is_required = done_is_required
        self._choices = choices
        self._last_types = last_types
        self._before = dialect_transform
        self._repair = repair
        self._after = client_transform
        self._framer = Framer(event_limit_bytes)
        self._event_limit_bytes = event_limit_bytes
        self.waiting = b""
        self._lines_left = TURN_LINES
        self._idle_bytes = self._events_before = 0
        self._progress = Progress()
        self._adapted: list[str] = []
        self._is_over = self._has_begun = self._has_ids = False
        self._fast_path = FastPath()

    @property
    def adapted(self) -> tuple[str, ...]:
        """The names of the changes so far, in the order in which each was first made."""
        names = [*self._adapted]
        for transform in (self._before, self._repair, self._after):
            if transform is not None:
                names += transform.adapted
        return tuple(dict.fromkeys(names)) if names else ()

    @property
    def has_ids(self) -> bool:
        """Whether an event with an `id:` was returned."""
        return self._has_ids

    @property
    def envelope(self) -> Mapping[str, Any]:
        """The envelope that its first chunks had; empty without a repair."""
        return {} if self._repair is None else self._repair.envelope

    @property
    def is_empty(self) -> bool:
        """Whether the stream is complete and each choice ended with `stop`, but without content or a tool call."""
        return self.done and self._repair is not None and self._repair.is_empty

    @property
    def open_choice(self) -> int | None:
        """The first requested choice without a finish reason; None if all have one."""
        return self._progress.open_choice(self._choices)

    @property
    def usage(self) -> Usage | None:
        """The last usage that the upstream reported."""
        return self._progress.usage

    def feed(self, piece: bytes = b"") -> bytes:
        """Return the whole events that can be written to the client after `piece`, `waiting` ones first."""
        if self._is_over:
            self.waiting = b""
            return b""
        run, dialect_transform = self._framer.feed(piece), self._before
        if self.waiting:
            run, self.waiting, self._lines_left = self.waiting + run, b"", TURN_LINES
        if dialect_transform is not None and run:
            run = self._in_this_turn(run)
            run = dialect_transform.feed(run) if run else b""
        if count := self._fast_path.count_matching(run):
            self.events += count
        elif run and dialect_transform is None and self._lines_left > 1 and (data := single_line_data(run)) is not None:
            self._lines_left -= 2  # the most common form of a parsed event: its lines need no counting or splitting
            self._has_begun = True
            run = self._validate_data(run, data.strip(), b"")
        elif run:
            run = run if dialect_transform is not None else self._in_this_turn(run)
            run = self._validate_run(run) if run else b""
        if self._framer.overflowed and not self.waiting:
            self._fail(chunk.event_too_large(self._upstream))
        return run if self._after is None or not run else self._after.feed(run)

    def finish(self) -> bytes:
        """Return the last bytes for the client after a body that ended cleanly.

        Sets `done` or `failure`. Without `done_is_required` it sets neither if there was an answer.
        """
        runs = []
        while self.waiting:
            runs.append(self.feed())
        runs.append(self._finish())
        return b"".join(runs)

    def _finish(self) -> bytes:
        if self._is_over:
            return b""
        tail = self._framer.tail
        last = self._validate_tail(tail) if tail.strip() else b""
        if self._before is not None and (held := self._before.finish()):
            last += self._validate_run(held)
        last += self._end(was_cut=bool(tail.strip()) and not last)
        return last if self._after is None or not last else self._after.feed(last)

    def broken(self, error: GatepassError) -> None:
        """Fail with `error` because the body broke off; ignored if `[DONE]` or a last event was complete."""
        self._fail(error)

    def _end(self, *, was_cut: bool) -> bytes:
        if self._is_over:
            return b""
        if self._done_is_required and self._progress.is_complete(self._choices):
            self._adapt(ADDED_DONE)
            self.done = self._is_over = True
            return self._finish_repair() + DONE
        lacks_last = bool(self._last_types)  # the last one would have ended the stream
        if self._done_is_required or was_cut or lacks_last or not self.events:
            is_empty = not (was_cut or self._progress.has_choices or (lacks_last and self.events))
            self._fail((chunk.stream_empty if is_empty else chunk.stream_closed)(self._upstream))
        self._is_over = True
        return self._finish_repair()

    def _fail(self, error: GatepassError) -> None:
        if not self._is_over:
            self.failure = error
            self._is_over = True

    def _adapt(self, name: str) -> None:
        if name not in self._adapted:
            self._adapted.append(name)

    def _validate_tail(self, tail: bytes) -> bytes:
        """Validate the last event with the blank line it lacks; b"" if it is incomplete or a comment."""
        is_whole = tail.endswith(b"\n\r")
        block = tail if is_whole else tail + (b"\n" if tail.endswith(b"\n") else b"\n\n")
        data = parse_event(block.removeprefix(_BOM)).data or b""
        if not (is_json(data) or data.strip() == b"[DONE]"):
            return b""
        last = self._validate_run(block if self._before is None else self._before.feed(block))
        if last and not is_whole:
            self._adapt(LAST_EVENT)
        return last

    def _in_this_turn(self, run: bytes) -> bytes:
        """Return the first events of `run` for which this turn has lines left, and keep the others in `waiting`."""
        lines = count_lines(run)
        if lines <= self._lines_left:
            self._lines_left -= lines
            return run
        end = first_events(run, self._lines_left)
        if not end and self._lines_left == TURN_LINES:
            end = first_event(run)  # an event with more lines than a turn has gets a turn alone
        self._lines_left, self.waiting = 0, run[end:]
        return run[:end]

    def _validate_run(self, run: bytes) -> bytes:
        if not self._has_begun:
            self._has_begun = True
            if run.startswith(_BOM):
                self._adapt(BYTE_ORDER_MARK)
                run = run[len(_BOM) :]
        data = single_line_data(run)
        if data is not None:
            return self._validate_data(run, data.strip(), b"")
        kept = []
        for block in split_events(run):
            kept.append(self._validate(block))
            if self._is_over:
                break
        return b"".join(kept)

    def _validate(self, block: bytes) -> bytes:
        if self._fast_path.count_matching(_without_id(block) if self._has_ids else block):
            self.events += 1
            return block
        data = single_line_data(block)
        if data is not None:
            return self._validate_data(block, data.strip(), b"")
        if block in _BLANK_LINES and not self._has_ids:
            return b"" if self._is_idle_too_long(block) else block
        if has_too_many_lines(block):
            self._fail(chunk.event_too_large(self._upstream))
            return b""
        event = parse_event(block)
        if event.data is None:
            if self._is_idle_too_long(block):
                return b""
            if not (event.is_dispatched or self._has_ids):
                return block
            self._adapt(ID_COMMENTS if event.comments else EMPTY_DATA)
            return event.comments
        kept = self._validate_data(block, event.data.strip(), event.name)
        if kept and event.id:
            self._has_ids = True
        return kept or event.comments

    def _is_idle_too_long(self, block: bytes) -> bool:
        """Count the bytes of `block`, which has no data, and fail if too many arrived since the last event."""
        if self.events != self._events_before:
            self._events_before, self._idle_bytes = self.events, 0
        self._idle_bytes += len(block)
        if self._idle_bytes > self._event_limit_bytes:
            self._fail(chunk.too_many_comments(self._upstream))
        return self._is_over

    def _validate_data(self, block: bytes, data: bytes, name: bytes) -> bytes:
        if not data or data.startswith(b":"):
            if not self._is_idle_too_long(block):
                self._adapt(EMPTY_DATA)
            return b""
        if data == b"[DONE]":
            return self._validate_done(block)
        try:
            payload = read_json(data)
        except ValueError:
            if name != b"error":
                self._fail(chunk.event_not_json(self._upstream))
                return b""
            payload = data.decode("utf-8", "replace")  # an error event may hold plain text
        if (error_body := error_in_event(payload, name, self._read_error)) is not None:
            return self._fail_with_error_event(error_body)
        return self._validate_chunk(block, payload)

    def _validate_done(self, block: bytes) -> bytes:
        if self._done_is_required and not self._progress.has_answer:
            self._fail(chunk.stream_empty(self._upstream))
            return b""
        if self._last_types:
            self._fail((chunk.stream_closed if self.events else chunk.stream_empty)(self._upstream))
            return b""
        if self._repair is not None and self._done_is_required and not self._repair.end_choices():
            self._fail(chunk.stream_closed(self._upstream))
            return self._finish_repair()
        self.done = self._is_over = True
        return self._finish_repair() + block

    def _finish_repair(self) -> bytes:
        """Return the events that the repair held back, such as the usage that the client requested."""
        return b"" if self._repair is None else self._repair.finish()

    def _validate_chunk(self, block: bytes, payload: Any) -> bytes:
        """Validate one JSON value that is not an error. A value without choices (a ping) passes unchanged."""
        fields = unwrap(payload) if isinstance(payload, dict) else {}
        choices = fields.get("choices")
        if not isinstance(choices, list):
            choices = None
        elif len(block) > MAX_ENTRIES_MIN_BYTES and has_too_many_entries(choices):
            self._fail(chunk.too_many_choices(self._upstream))
            return b""
        elif choices and self._repair is None and self._progress.is_whole_reply(choices):
            self._fail(chunk.completion_in_stream(self._upstream))
            return b""
        if self._last_types and isinstance(kind := fields.get("type"), str) and kind in self._last_types:
            self.done = self._is_over = True
            self._progress.note_response(fields.get("response"))
        self.events += 1
        self.has_answered = self.has_answered or bool(choices)
        is_plain = self._progress.note(fields, choices or [])  # before the repair, which may move the usage
        repaired = block
        if self._repair is not None and isinstance(payload, dict):
            repaired = self._repair.repair_event(block, payload)
        if is_plain and self._progress.has_answer and (self._repair is None or self._repair.skips_similar):
            self._fast_path.set_pattern(_without_id(block), self.events)
        return repaired

    def _fail_with_error_event(self, error_body: UpstreamErrorBody) -> bytes:
        self._fail(chunk.upstream_error_event(self._upstream, error_body))
        return self._finish_repair()


def _without_id(block: bytes) -> bytes:
    """Return `block` without an `id:` line at its beginning, because the ids of a stream's events differ."""
    return block[block.find(b"\n") + 1 :] if block.startswith(b"id:") else block


_MAX_INDEX = 1023
"""Larger indices share one entry, so that an upstream with ever new indices costs no memory."""


class Progress:
    """The choices, finish reasons and usage of the events so far, in bounded memory."""

    __slots__ = ("_finished", "_has_deltas", "_seen", "has_answer", "usage")

    def __init__(self) -> None:
        self.has_answer = False
        """Whether a choice had output or a finish reason. A role alone is not an answer."""
        self.usage: Usage | None = None
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._has_deltas = False

    @property
    def has_choices(self) -> bool:
        return bool(self._seen)

    def is_complete(self, choices: int) -> bool:
        """Whether at least `choices` choices were seen, and each of them has its finish reason."""
        return len(self._seen) >= choices and self._seen <= self._finished

    def open_choice(self, choices: int) -> int | None:
        """Return the first of `choices` choices that is not finished; None if all are."""
        return next((index for index in range(choices) if index not in self._finished), None)

    def is_whole_reply(self, choices: list[Any]) -> bool:
        """Whether these are the choices of a whole reply (`message` instead of `delta`), with no delta before them.

        Stream clients crash on them or read them as empty (openai-python 3.51, openai-node 6.49). After deltas they
        do no harm.
        """
        return not self._has_deltas and all(
            isinstance(choice, dict) and "message" in choice and "delta" not in choice for choice in choices
        )

    def note(self, fields: dict[str, Any], choices: list[Any]) -> bool:
        """Record one event. Return whether it carries only output.

        If it does, an event that differs from it only in its text does not change this state.
        """
        usage = fields.get("usage")
        if isinstance(usage, dict):
            self.usage = Usage.read(usage)
        ends = [self._note_choice(choice) for choice in choices if isinstance(choice, dict)]
        return bool(ends) and not usage and not any(ends)

    def note_response(self, response: object) -> None:
        """Record the usage of the Response in the last event of the Responses API."""
        usage = response.get("usage") if isinstance(response, dict) else None
        if isinstance(usage, dict):
            self.usage = Usage.read(usage)

    def _note_choice(self, choice: dict[str, Any]) -> bool:
        """Record one choice, and return whether this ends it. Ollama and SGLang send an empty finish reason."""
        index = choice.get("index")
        if type(index) is not int:
            index = 0
        elif not 0 <= index <= _MAX_INDEX:
            index = -1
        self._seen.add(index)
        self._has_deltas = self._has_deltas or "delta" in choice
        self.has_answer = self.has_answer or has_output(choice)
        if finish_reason(choice):
            self._finished.add(index)
            return True
        return False
