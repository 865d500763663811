"""Validate the event stream of an upstream while it passes, and decide whether it is complete."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from gatepass.errors import GatepassError, UpstreamClosed, UpstreamEmpty, UpstreamError, UpstreamErrorReply
from gatepass.json_body import BOM, takes_long
from gatepass.observability.redaction import SHORTEST_CHARS
from gatepass.replies import content
from gatepass.replies.error_body import reason_of
from gatepass.sse import chunk
from gatepass.sse.chunk import (
    ERROR_BYTES,
    MAX_ENTRIES_MIN_BYTES,
    AnswerFault,
    ArgumentsTooLarge,
    Object,
    StreamSource,
    beginning_of_error,
    error_in_event,
    event_value,
    has_too_many_entries,
    unwrap,
)
from gatepass.sse.client_transforms import LaterNumbers
from gatepass.sse.event import (
    DONE,
    LARGE_EVENT_BYTES,
    MOST_ESCAPED,
    MOST_LINES,
    EventTransform,
    Framer,
    count_lines,
    first_event,
    first_events,
    first_events_within,
    is_json,
    parse_event,
    public_line,
    public_lines,
    read_json,
    single_line_data,
    split_events,
    split_large,
)
from gatepass.sse.fast_path import FastPath
from gatepass.sse.progress import Progress
from gatepass.sse.repair import EventRepair
from gatepass.sse.usage import Usage
from gatepass.types import StreamedResponse

BYTE_ORDER_MARK, ID_COMMENTS, EMPTY_DATA, LINES = "sse=bom", "sse=id-comments", "sse=empty-data", "sse=lines"
_PLAIN_DONE = re.compile(rb"data: ?\[DONE\]")
_LIKE_DONE = re.compile(rb"(?i)[^\w:]{0,8}done[^\w:]{0,8}")
"""A `[DONE]` in other letters, quotes or brackets."""
_TAG = re.compile(rb"<[^<>]*>")
_FIELD_NAMES = (b"data", b"event", b"id", b"retry")
JOINED, LAST_EVENT, ADDED_DONE = "sse=joined", "sse=last-event", "sse=done"
NAMES = (BYTE_ORDER_MARK, ID_COMMENTS, EMPTY_DATA, LINES, JOINED, LAST_EVENT, ADDED_DONE)
"""The changes that validation makes.

- ID_COMMENTS: It removes the blank line after a block of comments, if an event before had an `id:`. Otherwise
  openai-python reads the block as an empty event and fails (openai/openai-python issues 2722, 3833).
- EMPTY_DATA: It removes events without data, and events whose data is a comment. Clients fail at them too.
- LINES: It removes lines that the format does not define, after they were read for an error, and masks known secrets in
  the other lines beside the data.
- JOINED: It adds the blank lines of a stream with one line end between its events.
- LAST_EVENT: It adds the blank line that the last event lacks. Clients ignore an unfinished event.
- ADDED_DONE: It adds the `[DONE]` of a complete stream, also in place of one that is spelled otherwise (`data: done`).
"""

_JOINED = re.compile(
    rb"[}\]][ \t]{0,8}+\r?\n(?=(?:(?:event|id|retry|):[^\r\n]{0,200}+\r?\n){0,2}+data:[ \t]{0,8}+(?:[{\[]|(?i:done)\b))"
)
"""The end of an event without a blank line, before another. A JSON document in several lines has a comma there."""
FIELDS_BYTES = 512
"""It looks so far ahead at most."""

_BLANK_LINES = (b"\n", b"\r\n", b"\r")

PAGE_BYTES = 4096

MOST_CLEAN = 64
_EMPTY = frozenset((b"",))
SHORTEST_ID_LINE = len(b"id:") + SHORTEST_CHARS
"""A shorter one holds no secret."""

TURN_LINES = 512
"""This many lines are validated before the event loop must run. A line takes up to 20 µs, even a blank one."""


class EventStream:
    """Take the pieces of an upstream's body, and return the bytes to write to the client.

    An event is returned with its last byte, and unchanged apart from `NAMES`. The stream is complete when a whole
    `[DONE]` arrived, or when its body ended cleanly and every choice had its finish reason. Any other end is a failure,
    and no `[DONE]` is returned before it. At `[DONE]` a `repair` adds the finish reason that a choice lacks, or reports
    that the choice was cut, which is a failure too. At a `[DONE]` that is spelled otherwise the finish reasons decide.

    The state after each call:

    * `failure` is set as soon as the stream must end with an error. The bytes returned so far are valid, those of the
      same call included. An error event of the upstream is not among them, because the caller writes an error event in
      gatepass's form, unless `failure.is_told`. After `done` or a failure no more bytes are returned. An error in a
      line that is no field of an event is one too. Another text there is the reason of a stream that is cut.
    * `has_answered`: an event with choices, or with only output, was returned, or an error event of the upstream.
    * `has_ids`: an event with an `id:` was returned.
    * `events` is the number of JSON events returned, without errors and `[DONE]`.
    * `waiting` holds the whole events that are left when TURN_LINES are used up, or that contain a large event. The
      caller lets the event loop run, and then calls `feed` without a piece.

    The arguments:

    * `source.limit_bytes` limits one event.
    * `done_is_required`: if it is false, every body that ended cleanly is complete.
    * `wants_usage`: the upstream was asked for usage. At a `[DONE]` before it the stream is `done`, but the `[DONE]` is
      held, and `awaits_usage` is True until `feed` found the usage, or `finish` gave up.
    * `progress` records the events. A protocol whose last event is not `[DONE]` passes a subclass.
    * `dialect_transform` changes events before validation, `client_transform` after it, and delays none. A large event
      passes neither.
    """

    __slots__ = (
        "_adapted",
        "_after",
        "_argument_path",
        "_before",
        "_choices",
        "_clean",
        "_done_is_required",
        "_fast_path",
        "_framer",
        "_has_begun",
        "_has_texts_beside",
        "_is_over",
        "_large",
        "_later_numbers",
        "_lines_left",
        "_match",
        "_noted_events",
        "_passes_match",
        "_passing_bytes",
        "_progress",
        "_repair",
        "_source",
        "_text",
        "_text_events",
        "_text_path",
        "_wants_usage",
        "awaits_usage",
        "done",
        "events",
        "failure",
        "has_answered",
        "has_ids",
        "waiting",
    )

    def __init__(
        self,
        source: StreamSource,
        done_is_required: bool = True,
        *,
        progress: Progress | None = None,
        choices: int = 1,
        dialect_transform: EventTransform | None = None,
        repair: EventRepair | None = None,
        client_transform: EventTransform | None = None,
        wants_usage: bool = False,
    ) -> None:
        self.failure: GatepassError | None = None
        self._wants_usage, self.awaits_usage = wants_usage, False
        self.done = self.has_answered = False
        self.events = 0
        self._source = source
        self._done_is_required = done_is_required
        self._choices = choices
        self._before = dialect_transform
        self._repair = repair or EventRepair()
        self._after = client_transform
        self._later_numbers: LaterNumbers | None = None
        self._framer = Framer(source.limit_bytes)
        self._passing_bytes = min(source.limit_bytes, LARGE_EVENT_BYTES)  # a large event passes no transform
        self.waiting = b""
        self._large: Iterator[bytes] | None = None  # the turns of the first event of `waiting`
        self._lines_left = TURN_LINES
        self._noted_events = 0
        self._progress = Progress() if progress is None else progress
        self._adapted: dict[str, None] = {}
        self._clean = _EMPTY
        """Lines beside the data that were searched for secrets: most are repeated. The ids are not among them."""
        self._is_over = self._has_begun = self.has_ids = self._has_texts_beside = False
        self._text, self._text_events = b"", 0
        self._text_path = self._fast_path = self._progress.fast_path()
        self._argument_path: FastPath | None = None  # of a tool call, used until the next event that is parsed
        self._match = self._fast_path.count_matching
        self._passes_match = False
        """Whether a piece that matches the fast path is whole events and is sent at once: the most common piece."""

    @property
    def adapted(self) -> tuple[str, ...]:
        """The names of the changes so far, in the order in which each was first made."""
        names = [*self._adapted]
        for transform in (self._before, self._repair, self._after, self._later_numbers):
            if transform is not None:
                names += transform.adapted
        return tuple(dict.fromkeys(names)) if names else ()

    @property
    def unfinished_bytes(self) -> int:
        """The size of the event that has not arrived completely, and of those in `waiting`."""
        return len(self._framer.unfinished) + len(self.waiting)

    @property
    def kept_bytes(self) -> int:
        """What a translation keeps, in whole pages: it grows with each event, and each change of it is counted."""
        return 0 if self._after is None else -(-self._after.kept_bytes // PAGE_BYTES) * PAGE_BYTES

    def take(self) -> bytes:
        """Return the next events that `feed` left behind a large one of a translation; b"" for none."""
        return b"" if self._after is None else self._after.take()

    @property
    def is_empty(self) -> bool:
        """Whether the stream is complete and each choice ended with `stop`, but without content or a tool call."""
        return self.done and self._repair.is_empty

    @property
    def streamed(self) -> StreamedResponse:
        """The response that the events named; without values if they name none. The number is the client's next one."""
        if (after := self._after) is not None and after.named is not None:
            return replace(after.named, next_number=after.next_number)
        streamed, later = self._progress.streamed, self._later_numbers
        matched = self.events - self._noted_events  # each of them has the number after the one before
        shift = 0 if later is None else later.shift
        return replace(streamed, next_number=streamed.next_number + matched + shift)

    def note_own_event(self, event: bytes) -> None:
        """Record that gatepass sent `event`, or a comment, after the events returned so far.

        An event has a number if those of the upstream have one. The events after it then get higher numbers.
        """
        if event.startswith(b":") or not self.streamed.is_numbered:
            return
        if (after := self._after) is not None and after.named is not None:
            after.next_number += 1
            return
        if self._later_numbers is None:
            self._later_numbers, self._passes_match = LaterNumbers(), False
        self._later_numbers.shift += 1

    @property
    def usage(self) -> Usage | None:
        return self._progress.usage

    def feed(self, piece: bytes = b"") -> bytes:
        """Return the whole events that can be written to the client after `piece`, `waiting` ones first."""
        was_tried = self._passes_match and len(piece) <= self._passing_bytes
        if was_tried and (count := self._match(piece)):
            self.events += count
            sent = self._fast_path.changed(piece) if self._fast_path.changes else piece
            return sent if self._after is None else self._for_client(sent)
        run = self._framer.feed(piece)
        run = run + self._take_joined(len(piece)) if b"\n" in self._framer.unfinished else run
        if self.waiting:
            run, self.waiting, self._lines_left = self.waiting + run, b"", TURN_LINES
        if self._is_over:
            return self._read_late(run)
        later = b""
        if len(run) > LARGE_EVENT_BYTES or self._large is not None:  # what waits
            end = 0 if self._large else first_events_within(run, LARGE_EVENT_BYTES)
            if not end:
                return self._feed_large(run)
            run, later = run[:end], run[end:]
        dialect_transform = self._before
        if dialect_transform is not None and run:
            run = self._in_this_turn(run)
            run = dialect_transform.feed(run) if run else b""
        count = 0 if was_tried and run is piece else self._match(run)
        if count or (count := self._count_texts_beside(run)):
            self.events += count
            run = self._fast_path.changed(run)
        elif run and dialect_transform is None and self._lines_left > 1 and (data := single_line_data(run)) is not None:
            self._lines_left -= 2  # the most common form of a parsed event: its lines need no counting or splitting
            self._has_begun = True
            run = self._validate_data(run, data.strip(), b"")
        elif run:
            run = run if dialect_transform is not None else self._in_this_turn(run)
            run = self._validate_run(run) if run else b""
        self.waiting += later
        if self._framer.is_blocked and not self.waiting:
            if self._framer.large:
                self.waiting = self._framer.take_large()
            else:
                self.fail(chunk.event_too_large(self._source.upstream))
        has_more = self._framer.unfinished or self.waiting or self._is_over
        self._passes_match = self._later_numbers is None and dialect_transform is None and not has_more
        return self._for_client(run)

    def _feed_large(self, run: bytes) -> bytes:
        """Give the large event that `run` begins with its next turn."""
        if self._large is None:
            run = self._without_mark(run)
            self._large = self._read_large(run)
        self.waiting = run
        return next(self._large)

    def _for_client(self, run: bytes) -> bytes:
        """Return `run` as the client's protocol and profile require it. A translation may find it to be no answer."""
        if run and (after := self._after) is not None:
            try:
                run = after.feed(run)
            except UpstreamError as error:
                self.failure, self._is_over = error, True
                self.done = self._passes_match = False
                return after.unsent
        return run if self._later_numbers is None else self._later_numbers.feed(run)

    def finish(self) -> bytes:
        """Return the last bytes for the client after a body that ended cleanly.

        Sets `done` or `failure`. Without `done_is_required` it sets neither if there was an answer.
        """
        runs, self._passes_match = list[bytes](), False
        while self.waiting:
            runs.append(self.feed())
        runs.append(self._finish())
        return b"".join(runs)

    def _finish(self) -> bytes:
        if self._is_over:
            return self._read_late(DONE)
        tail = self._framer.tail
        # SDKs ignore a last event without its blank line
        last = self._validate_tail(tail) if tail.strip() else b""
        if self._before is not None and (held := self._before.finish()):
            last += self._validate_run(held)
        last += self._end(was_cut=bool(tail.strip()) and not last)
        return self._for_client(last)

    def _end(self, *, was_cut: bool) -> bytes:
        if self._is_over:
            return b""
        # TGI before 2.2 sends no `[DONE]`
        if self._done_is_required and self._progress.is_complete(self._choices):
            if not self._repair.end_choices(self._progress.usage):
                return self._fail(self._repair.fault or chunk.stream_closed) or self._finish_repair()
            self._adapted[ADDED_DONE] = None
            self.done = self._is_over = True
            return self._finish_repair() + DONE
        lacks_last = self._progress.requires_last_event  # it would have ended the stream
        if self._done_is_required or was_cut or lacks_last or not self.events:
            is_empty = not (was_cut or self._progress.has_choices or (lacks_last and self.events))
            self.fail((chunk.stream_empty if is_empty else chunk.stream_closed)(self._source.upstream))
        self._is_over = True
        return self._finish_repair()

    def fail(self, error: GatepassError) -> None:
        """End the stream with `error`. No effect after `[DONE]` or a last event."""
        if not self._is_over:
            self.failure = self._reason(error)
            self._is_over, self._passes_match = True, False

    def _fail(self, error_of: Callable[[str], GatepassError]) -> bytes:
        """Fail with the error of the upstream, and return what the client gets of the event: nothing."""
        self.fail(error_of(self._source.upstream))
        return b""

    def _reason(self, error: GatepassError) -> GatepassError:
        """Return `error`, or the upstream's own words in its place."""
        is_cut = self._text and isinstance(error, UpstreamClosed | UpstreamEmpty)
        words = self._source.read_error({"error": content.words(self._text)}) if is_cut else None
        return error if words is None else chunk.upstream_error_event(self._source.upstream, words)

    def _read_text(self, text: bytes) -> None:
        """Fail with the error that `text`, lines that are no fields, is; keep another one as the reason of a cut."""
        if text[:1] == b"<":  # the title of a page
            text = _TAG.sub(b" ", re.split(rb"(?i)</title", text, maxsplit=1)[0])
        elif text[:1] in (b"{", b"[") and not isinstance(payload := event_value(text, b"error"), str):
            error_body = error_in_event(payload, b"", self._source.read_error)
            if error_body is not None:
                self.fail(chunk.upstream_error_event(self._source.upstream, error_body))
        self._text, self._text_events = self._text or text[:ERROR_BYTES].strip(), self.events

    def _validate_tail(self, tail: bytes) -> bytes:
        """Validate the last event with the blank line it lacks; b"" if it is incomplete, large or a comment."""
        if len(tail) > LARGE_EVENT_BYTES or count_lines(tail) > MOST_LINES:
            # clients ignore it, and to read it here would occupy the loop for long
            return b""
        # the framer waits for the LF that would make this CR a CRLF
        is_whole = tail.endswith(b"\n\r")
        block = tail if is_whole else tail + (b"\n" if tail.endswith(b"\n") else b"\n\n")
        event = parse_event(block.removeprefix(BOM))
        data = event.data or b""
        if not (is_json(data) or data.strip() == b"[DONE]"):
            if event.text and not any(name.startswith(event.text) for name in _FIELD_NAMES):
                self._read_text(event.text)
            return b""
        last = self._validate_run(block if self._before is None else self._before.feed(block))
        if last and not is_whole:
            self._adapted[LAST_EVENT] = None
        return last

    def _in_this_turn(self, run: bytes) -> bytes:
        """Return the first events of `run` for which this turn has lines left, and keep the others in `waiting`."""
        lines = count_lines(run)
        if lines != 2 * run.count(b"\n\n"):  # else there is a blank line behind each line
            run = self._separated(run)
            lines = count_lines(run)
        if lines <= self._lines_left:
            self._lines_left -= lines
            return run
        end = first_events(run, self._lines_left)
        if not end and self._lines_left == TURN_LINES:
            end = first_event(run)  # an event with more lines than a turn has gets a turn alone
        self._lines_left, self.waiting = 0, run[end:]
        return run[:end]

    def _take_joined(self, new_bytes: int) -> bytes:
        """Return the events in what is unfinished because it has no blank lines between its events."""
        framer, run = self._framer, b""
        start = max(len(framer.unfinished) - new_bytes - FIELDS_BYTES, 0)
        if any(map(_ends_event, _JOINED.finditer(framer.unfinished, start))):
            run = framer.feed(self._separated(framer.take_unfinished()))
        lines = framer.unfinished
        if JOINED in self._adapted and lines.endswith(b"\n"):
            last = lines.rfind(b"\n", 0, -1) + 1
            is_first = last < FIELDS_BYTES and lines.startswith(b"data:", last) and lines.find(b"data:", 0, last) < 0
            # one with a second line may go on
            if is_first and lines[-FIELDS_BYTES:].rstrip(content.BLANKS).endswith((b"}", b"[DONE]")):
                run += framer.feed(b"\n")
        return run

    def _separated(self, run: bytes) -> bytes:
        separated = _JOINED.sub(lambda found: found[0] + b"\n" if _ends_event(found) else found[0], run)
        if len(separated) > len(run):
            self._adapted[JOINED] = None
        return separated

    def _validate_run(self, run: bytes) -> bytes:
        if self.has_ids and (
            count := self._match(without_id := _without_id(run))
        ):  # nearly each event of such a stream
            self.events += count
            return self._matched(run, without_id)
        kept, blocks = [], iter(split_events(self._without_mark(run)))
        for block in blocks:
            kept.append(self._validate(block))
            if self._is_over:
                break
        if self.awaits_usage:
            self.waiting = b"".join(blocks) + self.waiting
        return b"".join(kept)

    def _read_late(self, run: bytes) -> bytes:
        """Return the usage that an upstream sent after its `[DONE]`, and the `[DONE]`; b"" while neither is found."""
        late = b""
        for block in split_events(run) if self.awaits_usage else ():
            event = parse_event(block)
            data = (event.data or b"").strip()
            payload = read_json(data) if is_json(data) else None
            fields = unwrap(payload) if isinstance(payload, dict) else {}
            if data == b"[DONE]" or isinstance(fields.get("usage"), dict):
                self.awaits_usage = False
                if data != b"[DONE]":
                    self._progress.note(fields, [])
                    late = self._repaired(self._public(block, event.beside), {**fields, "choices": []})
                late += DONE
                return self._for_client(late)
        return late

    def _without_mark(self, run: bytes) -> bytes:
        if not self._has_begun and run.startswith(BOM):
            self._adapted[BYTE_ORDER_MARK] = None
            run = run[len(BOM) :]
        self._has_begun = True
        return run

    def _validate(self, block: bytes) -> bytes:
        without_id = _without_id(block) if self.has_ids else block
        if self._match(without_id) or self._count_texts_beside(without_id):
            self.events += 1
            return self._matched(block, without_id)
        data = single_line_data(block)
        if data is not None:
            return self._validate_data(block, data.strip(), b"")
        if block in _BLANK_LINES and not self.has_ids:
            return block
        if len(block) > MOST_LINES and count_lines(block) > MOST_LINES:
            return self._fail(chunk.event_too_large)
        event = parse_event(block)
        if event.text:
            self._read_text(event.text)
        if self._is_over:
            return b""
        if (public := self._public(block, event.beside)) is not block:
            if not public:
                return b""
            block, event = public, parse_event(public)
        if event.data is None:
            if not (event.is_dispatched or self.has_ids):
                return block
            self._adapted[ID_COMMENTS if event.comments else EMPTY_DATA] = None
            return event.comments
        kept = self._validate_data(block, event.data.strip(), event.name)
        if kept and event.id:
            self.has_ids = True
        return kept or event.comments

    def _matched(self, run: bytes, without_id: bytes) -> bytes:
        """Return what the client gets for `run`, whose events match the fast path behind an `id:`."""
        if self._fast_path.changes:
            return self._fast_path.changed(without_id)
        return self._public(run, run[: len(run) - len(without_id)])

    def _public(self, block: bytes, beside: bytes) -> bytes:
        """Return the event `block` with what the client may receive of its lines `beside` the data."""
        if beside in self._clean:
            return block
        others, mask = _without_id(beside), self._source.mask
        id_line = beside[: len(beside) - len(others)].rstrip()
        if others in self._clean and (len(id_line) < SHORTEST_ID_LINE or public_line(id_line, mask) == id_line):
            return block
        if (public := public_lines(block, mask)) != block:
            self._adapted[LINES] = None
            return public
        if len(self._clean) < MOST_CLEAN and len(others) <= MOST_ESCAPED:
            self._clean |= {others}
        return block

    def _count_texts_beside(self, run: bytes) -> int:
        """Return the number of events in `run` if all of them are texts between the arguments of a tool call, else 0.

        Otherwise each of them and the arguments after it would be parsed: 11.6 µs an event instead of 1.5 (2026-11).
        """
        count = self._text_path.count_matching(run) if self._fast_path is self._argument_path else 0
        self._has_texts_beside = self._has_texts_beside or count > 0
        return count

    def _validate_data(self, block: bytes, data: bytes, name: bytes) -> bytes:
        if data[:1] != b"{":  # nearly no event
            # OpenAI's SDKs fail to parse `data:` and `data: : ping`, which some gateways send as keep-alives
            if not data or data.startswith(b":"):
                self._adapted[EMPTY_DATA] = None
                return b""
            # compared as a whole, because an answer may quote it: a search for it cut answers in LiteLLM
            # (BerriAI/litellm#31562)
            is_exact = data == b"[DONE]"
            has_end = self._done_is_required or self._progress.requires_last_event
            if is_exact or (has_end and _LIKE_DONE.fullmatch(data)):
                return self._validate_done(block, is_exact=is_exact)
        try:
            payload = event_value(data, name) if name else read_json(data)
        except ValueError:
            if not (text := chunk.plain_text(data)):
                return self._fail(chunk.event_not_json)
            payload, name = text, b"error"  # the words of a server that failed
        if (error_body := error_in_event(payload, name, self._source.read_error)) is not None:
            failure = chunk.upstream_error_event(self._source.upstream, error_body)
            return self._fail_by_event(failure, block, data, payload)
        return self._validate_chunk(block, payload)

    def _fail_by_event(self, failure: UpstreamErrorReply, block: bytes, data: bytes, payload: Any) -> bytes:
        """End the stream with the upstream's own error, and return its event if the client may receive it."""
        last = self._finish_repair()
        self._source.keep_original(failure, data)
        if failure.original and (self.has_answered or self._progress.fails_by_event):
            failure.is_told = self.has_answered = True
            self._progress.note(payload, [])
            self.events += 1
            self._noted_events = self.events
            last += self._repaired(block, payload)
        self.fail(failure)
        return last

    def _read_large(self, run: bytes) -> Iterator[bytes]:
        """Frame, read and write the large event that `run` begins with, in a turn each. Yield what the client gets."""
        try:
            block, data, event = split_large(run)
        except ValueError:
            yield self._fail(chunk.event_too_large)
            return
        yield b""
        text = bytes(data).strip()
        try:
            payload = event_value(text, event.name)
        except ValueError:
            yield self._fail(chunk.event_too_large if takes_long(text) else chunk.event_not_json)
            return
        yield b""
        error_body = error_in_event(beginning_of_error(payload), event.name, self._source.read_error)
        if error_body is None:
            self.has_ids = self.has_ids or bool(event.id)
            ready = self._validate_chunk(self._public(block, event.beside), payload)
        else:
            self.fail(chunk.upstream_error_event(self._source.upstream, error_body))
            ready = self._finish_repair()
        self._large, self.waiting = None, self.waiting[len(block) :]
        if self._repair.has_long_line:
            self.fail(chunk.line_too_long(self._source.upstream))
            ready = b""
        yield ready

    def _validate_done(self, block: bytes, *, is_exact: bool) -> bytes:
        # vLLM ends a failed stream with `[DONE]` alone (vllm-project/vllm#40986)
        if self._done_is_required and not self._progress.has_answer:
            return self._fail(chunk.stream_empty)
        if self._progress.requires_last_event:  # it would have ended the stream
            return self._fail(chunk.stream_closed if self.events else chunk.stream_empty)
        is_last = self._text and self.events == self._text_events  # no event followed the text
        if (is_last or not is_exact) and self._done_is_required and not self._progress.is_complete(self._choices):
            return self._fail(chunk.stream_closed)
        if self._done_is_required and not self._repair.end_choices(self._progress.usage):
            return self._fail(self._repair.fault or chunk.stream_closed) or self._finish_repair()
        self.done = self._is_over = True
        if self._wants_usage and (self.usage is None or not self.usage.used(generates=True)):
            self.awaits_usage = True
            return self._finish_repair()
        # openai-python parses a `[DONE]` with more blanks before it as JSON
        if not is_exact or _PLAIN_DONE.search(block) is None:
            self._adapted[ADDED_DONE] = None
            block = DONE
        return self._finish_repair() + block

    def _finish_repair(self) -> bytes:
        return self._repair.finish()

    def _validate_chunk(self, block: bytes, payload: Any) -> bytes:
        """Validate one JSON value that is not an error. A value without choices (a ping) passes unchanged."""
        fields = unwrap(payload) if isinstance(payload, dict) else {}
        if not isinstance(choices := fields.get("choices"), list):
            choices = None
            if (self._done_is_required or not self.has_answered) and (words := reason_of(payload)):
                # as in `_read_text`: the reason, if no answer or no more of it follows
                self._text = self._text or words.encode(errors="replace")[:ERROR_BYTES]
                self._text_events = self.events + 1
        elif len(block) > MAX_ENTRIES_MIN_BYTES and has_too_many_entries(choices):
            return self._fail(chunk.too_many_choices) or self._finish_repair()
        repair, repaired, had_answered = self._repair, block, self.has_answered
        try:
            is_plain = self._note_chunk(fields, choices)  # before the repair, which may move the usage
            if self._is_over and not self.done:
                return self._finish_repair()
            if isinstance(payload, dict):
                repaired = self._repaired(block, payload)
                if repair.holds_event:
                    self._fast_path.forget()
        except ArgumentsTooLarge:
            return self._fail(chunk.arguments_too_large)
        except AnswerFault as fault:
            self.has_answered = had_answered
            return self._fail(fault.error_of)
        take = None if repair.arguments.continued is None else repair.arguments.extend
        is_similar = is_plain and repaired is block if take is None else repaired != b""  # as an aggregator returns
        if is_similar and repair.skips_similar and self._progress.has_answer:
            if take is not None:
                self._fast_path = self._argument_path = self._argument_path or self._progress.fast_path()
                self._match = self._fast_path.count_matching
            sent = None if repaired is block else repaired
            self._fast_path.set_pattern(_without_id(block), self.events, take, sent)
        return repaired

    def _repaired(self, block: bytes, payload: Object) -> bytes:
        return self._repair.repair_event(block, payload)

    def _note_chunk(self, fields: dict[str, Any], choices: list[Any] | None) -> bool:
        usage, is_later = self._progress.usage, self.events > self._noted_events  # it has matched others
        if self._fast_path is self._argument_path:  # of the matched events texts alone follow the usage
            self._fast_path, is_later, self._has_texts_beside = self._text_path, self._has_texts_beside, False
            self._match = self._fast_path.count_matching
        self._repair.arguments.continued = None
        self.events += 1
        self._noted_events = self.events
        is_plain = self._progress.note(fields, choices or [])
        if usage is not None and (is_plain or (is_later and self._progress.usage is usage)):
            # more of the answer came after it
            self._progress.usage = Usage(usage.prompt_tokens, cached_tokens=usage.cached_tokens)
        self.has_answered = self.has_answered or bool(choices) or is_plain
        if self._progress.has_last_event:
            if self._progress.is_complete(self._choices):
                self.done = self._is_over = True
            else:
                end = chunk.stream_closed if self.has_answered else chunk.stream_empty
                self.fail((self._progress.fault or end)(self._source.upstream))
        return is_plain


def _ends_event(end: re.Match[bytes]) -> bool:
    run = end.string
    return run.startswith((b"data:", BOM + b"data:"), run.rfind(b"\n", 0, end.start()) + 1)


def _without_id(block: bytes) -> bytes:
    """Return `block` without an `id:` line at its beginning, because the ids of a stream's events differ."""
    return block[block.find(b"\n") + 1 :] if block.startswith(b"id:") else block
