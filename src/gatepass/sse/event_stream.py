"""One upstream's event stream, validated while it passes: what goes to the client, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gatepass.errors import GatepassError
from gatepass.sse import chunk
from gatepass.sse.chunk import MAX_ENTRIES_MIN_BYTES, error_of, finish_reason, has_output, has_too_many_entries, unwrap
from gatepass.sse.event import (
    DONE,
    Event,
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
from gatepass.sse.transform import EventTransform
from gatepass.sse.usage import Usage
from gatepass.types import UpstreamErrorBody

BYTE_ORDER_MARK, ID_COMMENTS, EMPTY_DATA = "sse=bom", "sse=id-comments", "sse=empty-data"
LAST_EVENT, ADDED_DONE = "sse=last-event", "sse=done"
NAMES = (BYTE_ORDER_MARK, ID_COMMENTS, EMPTY_DATA, LAST_EVENT, ADDED_DONE)
"""What may be changed: a byte order mark (clients lose the first event) is taken off; after an `id:`
a block of comments loses its blank line, for openai-python makes an empty event of it and dies
(openai/openai-python issues 2722, 3833); events without data, or with data that is empty or a
comment, are left out, for they kill clients too; a last event without its blank line gets one, for
clients drop it; `[DONE]` is added to a stream that is finished without it."""

_BOM = b"\xef\xbb\xbf"

_BLANK_LINES = (b"\n", b"\r\n", b"\r")

TURN_LINES = 512
"""As many lines as are judged before the event loop must run: one takes up to 20 µs, though it be blank."""


class EventStream:
    """Takes the pieces of one upstream's body, gives the bytes to write to the client.

    An event leaves with its last byte, unchanged but for `NAMES`. The stream is finished when `[DONE]`
    came whole, or its body ended whole and every choice had its finish reason. Everything else is a
    failure, and nothing that is returned then looks like an end: no `[DONE]` goes out before it. At `[DONE]`
    a `repair` adds the finish reason that a choice lacks, or says that the choice was cut: a failure too.

    `failure` is set as soon as the stream must end with an error; what was returned until then, in
    the same call too, still goes out. An upstream's own error event is not among it: whoever writes the
    failure says the same in the form of all errors, with the hop. After `done` or a failure nothing more is
    returned. `has_answered`: an event with choices was returned. `events` counts the
    JSON events returned, errors and `[DONE]` not among them.

    `read_error` reads an upstream's error out of a JSON value, or returns None. `choices` is how many
    the call asked for. Without `done_is_required` a body that ended whole is finished as it is; where there
    are `last_types`, the values of `type` that end it, the first event of them ends it as `[DONE]` does.

    `dialect_transform` changes events before validation. `client_transform` changes events after it and delays none.

    `waiting` holds the whole events that are left when a turn's TURN_LINES are used up. The caller lets the event loop
    run, and calls `feed` without a piece. Events of a pattern that is known are not counted, because they cost little.
    Comments, blank lines and events without data are an error when they exceed `event_limit_bytes` between two events.
    """

    __slots__ = (
        "_adapted",
        "_after",
        "_before",
        "_choices",
        "_done_is_required",
        "_event_limit_bytes",
        "_events_before",
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
        "_template",
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
        read_error: Callable[[Any], UpstreamErrorBody | None],
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
        self._template = FastPath()

    @property
    def adapted(self) -> tuple[str, ...]:
        """The names of what was changed, in the order in which it first was."""
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
        """The envelope of its chunks, as the first ones told it; empty where it has no repair."""
        return {} if self._repair is None else self._repair.envelope

    @property
    def is_empty(self) -> bool:
        """Whether it ended well, each choice with `stop`, and none said anything that is content or a call."""
        return self.done and self._repair is not None and self._repair.is_empty

    @property
    def open_choice(self) -> int | None:
        """The first of the choices that were asked for which has no finish reason yet; None where all have theirs."""
        return self._progress.open_choice(self._choices)

    @property
    def usage(self) -> Usage | None:
        """The last usage that the upstream told."""
        return self._progress.usage

    def feed(self, piece: bytes = b"") -> bytes:
        """The bytes that `piece` sets free for the client: whole events. What is `waiting` comes first."""
        if self._is_over:
            self.waiting = b""
            return b""
        run, dialect_transform = self._framer.feed(piece), self._before
        if self.waiting:
            run, self.waiting, self._lines_left = self.waiting + run, b"", TURN_LINES
        if dialect_transform is not None and run:
            run = self._in_this_turn(run)
            run = dialect_transform.feed(run) if run else b""
        if count := self._template.count_matching(run):
            self.events += count
        elif run and dialect_transform is None and self._lines_left > 1 and (data := single_line_data(run)) is not None:
            self._lines_left -= 2  # most of those that are parsed come so: nothing has to be counted or split
            self._has_begun = True
            run = self._judge_data(run, data.strip(), b"")
        elif run:
            run = run if dialect_transform is not None else self._in_this_turn(run)
            run = self._judge_run(run) if run else b""
        if self._framer.overflowed and not self.waiting:
            self._fail(chunk.event_too_large(self._upstream))
        return run if self._after is None or not run else self._after.feed(run)

    def finish(self) -> bytes:
        """The upstream's body has ended whole: the last bytes for the client. Sets `done` or `failure`;
        without `done_is_required` neither, if there was an answer."""
        runs = []
        while self.waiting:
            runs.append(self.feed())
        runs.append(self._finish())
        return b"".join(runs)

    def _finish(self) -> bytes:
        if self._is_over:
            return b""
        tail = self._framer.tail
        last = self._judge_tail(tail) if tail.strip() else b""
        if self._before is not None and (held := self._before.finish()):
            last += self._judge_run(held)
        last += self._end(was_cut=bool(tail.strip()) and not last)
        return last if self._after is None or not last else self._after.feed(last)

    def broken(self, error: GatepassError) -> None:
        """The body broke off, as `error` says: a failure, unless `[DONE]` or a last event had already come whole."""
        self._fail(error)

    def _end(self, *, was_cut: bool) -> bytes:
        if self._is_over:
            return b""
        if self._done_is_required and self._progress.is_complete(self._choices):
            self._adapt(ADDED_DONE)
            self.done = self._is_over = True
            return self._last_words() + DONE
        lacks_last = bool(self._last_types)  # the last one would have ended the stream
        if self._done_is_required or was_cut or lacks_last or not self.events:
            is_empty = not (was_cut or self._progress.has_choices or (lacks_last and self.events))
            self._fail((chunk.stream_empty if is_empty else chunk.stream_closed)(self._upstream))
        self._is_over = True
        return self._last_words()

    def _fail(self, error: GatepassError) -> None:
        if not self._is_over:
            self.failure = error
            self._is_over = True

    def _adapt(self, name: str) -> None:
        if name not in self._adapted:
            self._adapted.append(name)

    def _judge_tail(self, tail: bytes) -> bytes:
        """The last event with the blank line it lacks; b"" if it is only a part of one, or a comment."""
        is_whole = tail.endswith(b"\n\r")
        block = tail if is_whole else tail + (b"\n" if tail.endswith(b"\n") else b"\n\n")
        data = parse_event(block.removeprefix(_BOM)).data or b""
        if not (is_json(data) or data.strip() == b"[DONE]"):
            return b""
        last = self._judge_run(block if self._before is None else self._before.feed(block))
        if last and not is_whole:
            self._adapt(LAST_EVENT)
        return last

    def _in_this_turn(self, run: bytes) -> bytes:
        """The first events of `run`, as many as this turn has lines left for; the others wait."""
        lines = count_lines(run)
        if lines <= self._lines_left:
            self._lines_left -= lines
            return run
        end = first_events(run, self._lines_left)
        if not end and self._lines_left == TURN_LINES:
            end = first_event(run)
        self._lines_left, self.waiting = 0, run[end:]
        return run[:end]

    # --- one event after the other ------------------------------------------------------------

    def _judge_run(self, run: bytes) -> bytes:
        if not self._has_begun:
            run = self._begin(run)
        data = single_line_data(run)
        if data is not None:
            return self._judge_data(run, data.strip(), b"")
        kept = []
        for block in split_events(run):
            kept.append(self._judge(block))
            if self._is_over:
                break
        return b"".join(kept)

    def _begin(self, run: bytes) -> bytes:
        self._has_begun = True
        if not run.startswith(_BOM):
            return run
        self._adapt(BYTE_ORDER_MARK)
        return run[len(_BOM) :]

    def _judge(self, block: bytes) -> bytes:
        if self._template.count_matching(_behind_id(block) if self._has_ids else block):
            self.events += 1
            return block
        data = single_line_data(block)
        if data is not None:
            return self._judge_data(block, data.strip(), b"")
        if block in _BLANK_LINES and not self._has_ids:
            return b"" if self._is_idle_too_long(block) else block
        if has_too_many_lines(block):
            self._fail(chunk.event_too_large(self._upstream))
            return b""
        event = parse_event(block)
        if event.data is None:
            return self._judge_without_data(block, event)
        kept = self._judge_data(block, event.data.strip(), event.name)
        if kept and event.id:
            self._has_ids = True
        return kept or event.comments

    def _is_idle_too_long(self, block: bytes) -> bool:
        """Count `block`, which says nothing. If it is too much since the last event that says something: a failure."""
        if self.events != self._events_before:
            self._events_before, self._idle_bytes = self.events, 0
        self._idle_bytes += len(block)
        if self._idle_bytes > self._event_limit_bytes:
            self._fail(chunk.too_many_comments(self._upstream))
        return self._is_over

    def _judge_without_data(self, block: bytes, event: Event) -> bytes:
        if self._is_idle_too_long(block):
            return b""
        if not (event.is_dispatched or self._has_ids):
            return block
        self._adapt(ID_COMMENTS if event.comments else EMPTY_DATA)
        return event.comments

    def _judge_data(self, block: bytes, data: bytes, name: bytes) -> bytes:
        if not data or data.startswith(b":"):
            if not self._is_idle_too_long(block):
                self._adapt(EMPTY_DATA)
            return b""
        if data == b"[DONE]":
            return self._judge_done(block)
        try:
            payload = read_json(data)
        except ValueError:
            if name == b"error":
                return self._judge_error(data.decode("utf-8", "replace"), None)
            self._fail(chunk.event_not_json(self._upstream))
            return b""
        return self._judge_said(block, payload, name)

    def _judge_done(self, block: bytes) -> bytes:
        if self._done_is_required and not self._progress.has_answer:
            self._fail(chunk.stream_empty(self._upstream))
            return b""
        if self._last_types:
            self._fail((chunk.stream_closed if self.events else chunk.stream_empty)(self._upstream))
            return b""
        if self._repair is not None and self._done_is_required and not self._repair.end_choices():
            self._fail(chunk.stream_closed(self._upstream))
            return self._last_words()
        self.done = self._is_over = True
        return self._last_words() + block

    def _last_words(self) -> bytes:
        """What a repair had held back, such as the usage that the client asked for."""
        return b"" if self._repair is None else self._repair.finish()

    def _judge_said(self, block: bytes, payload: Any, name: bytes) -> bytes:
        """Judge one JSON value. What has no choices and is no error (a ping) goes on as it is."""
        fields = payload if isinstance(payload, dict) else {}
        choices = fields.get("choices")
        if name == b"error" or not choices or fields.get("error") or fields.get("object") == "error":
            error_body = self._read_error(payload)
            if error_body is not None or name == b"error":
                return self._judge_error(payload, error_body)
        elif (error := error_of(choices)) is not None:
            return self._judge_error(payload, self._read_error({"error": error}) or chunk.UNREADABLE)
        return self._judge_chunk(block, payload)

    def _judge_chunk(self, block: bytes, payload: Any) -> bytes:
        fields = unwrap(payload) if isinstance(payload, dict) else {}
        choices = fields.get("choices")
        if not isinstance(choices, list):
            choices = None
        elif len(block) > MAX_ENTRIES_MIN_BYTES and has_too_many_entries(choices):
            self._fail(chunk.too_many_choices(self._upstream))
            return b""
        elif choices and self._repair is None and self._progress.is_strange(choices):
            self._fail(chunk.completion_in_stream(self._upstream))
            return b""
        if self._last_types and isinstance(kind := fields.get("type"), str) and kind in self._last_types:
            self.done = self._is_over = True
        self.events += 1
        self.has_answered = self.has_answered or bool(choices)
        is_plain = self._progress.note(fields, choices or [])  # before the repair, which may move the usage
        shaped = block
        if self._repair is not None and isinstance(payload, dict):
            shaped = self._repair.repair_event(block, payload)
        if is_plain and self._progress.has_answer and (self._repair is None or self._repair.skips_similar):
            self._template.set_pattern(_behind_id(block), self.events)
        return shaped

    def _judge_error(self, payload: Any, error_body: UpstreamErrorBody | None) -> bytes:
        """End with the upstream's error. What only its name gives away as one is read as if it were
        `{"error": …}`: `read_error` masks what it reads, so nothing is quoted past it."""
        error_body = error_body or self._read_error({"error": payload}) or chunk.UNREADABLE
        self._fail(chunk.upstream_error_event(self._upstream, error_body))
        return self._last_words()


def _behind_id(block: bytes) -> bytes:
    """`block` without the `id:` line that it may begin with: the ids of a stream's events differ, and say nothing."""
    return block[block.find(b"\n") + 1 :] if block.startswith(b"id:") else block


_MAX_INDEX = 1023
"""Indices beyond share one entry: an upstream that counts up for ever costs no memory."""


class Progress:
    """What the events of one stream have told so far, of bounded size."""

    __slots__ = ("_finished", "_has_deltas", "_seen", "has_answer", "usage")

    def __init__(self) -> None:
        self.has_answer = False
        """Whether any choice has said something, be it that it is finished: a role alone is no answer."""
        self.usage: Usage | None = None
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._has_deltas = False

    @property
    def has_choices(self) -> bool:
        return bool(self._seen)

    def is_complete(self, choices: int) -> bool:
        """Whether `choices` were seen at least, and each that was seen has its finish reason."""
        return len(self._seen) >= choices and self._seen <= self._finished

    def open_choice(self, choices: int) -> int | None:
        """The first of `choices` that is not finished, None where all are."""
        return next((index for index in range(choices) if index not in self._finished), None)

    def is_strange(self, choices: list[Any]) -> bool:
        """Whether these are the choices of a plain reply (`message` in place of `delta`) and no piece
        of a stream has come before. Stream clients crash on them or read them as empty (seen with
        openai-python 3.51 and openai-node 6.49); after real pieces they are a mere extra."""
        return not self._has_deltas and all(
            isinstance(choice, dict) and "message" in choice and "delta" not in choice for choice in choices
        )

    def note(self, fields: dict[str, Any], choices: list[Any]) -> bool:
        """Remember what one event tells. True if it is a piece of text and no more: then an event
        that differs from it only in its text would leave everything as it is now."""
        usage = fields.get("usage")
        if isinstance(usage, dict):
            self.usage = Usage.read(usage)
        ends = [self._note_choice(choice) for choice in choices if isinstance(choice, dict)]
        return bool(ends) and not usage and not any(ends)

    def _note_choice(self, choice: dict[str, Any]) -> bool:
        """Whether this ends the choice. An empty finish reason does not (Ollama, SGLang send it)."""
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
