"""The fast path: recognize an event that differs from an earlier one only in its texts, without parsing it."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

_TEXT = re.compile(
    rb'"(?:content|reasoning_content|reasoning|refusal|text|thinking|partial_json|arguments|delta|obfuscation)"'
    rb'\s*+:\s*+"'
    rb'([^"\\]*+(?:\\.[^"\\]*+)*+)"',
    re.DOTALL,
)
"""A member whose value is free text. OpenAI pads each event with a random `obfuscation`."""

_ARGUMENTS = re.compile(rb'\\u|(?:arguments|partial_json)("\s*+:\s*+"\Z)?')
"""An escape that may hide a name, or the name of a tool call's arguments, before their text or elsewhere."""

_valid_string = msgspec.json.Decoder(str).decode
"""Raises ValueError unless the bytes are one JSON string. `read_json` reads an event with the same parser."""

_BETWEEN_TEXTS = b" "
"""Joins texts for one check: no half of a character or of an escape is completed by the next text."""

_MISMATCH = b'"'
"""Replaces a text that does not fit the pattern: a quote without a backslash ends the string before its end."""

_NO_EVENT = b"\0"
"""A head and tail that match no event, because every event ends with a line end."""

_TRIES = 8
"""This many patterns in a row may match no event before the fast path gives up."""

_MARK_BYTES = 32
"""Only this part of the gap is searched, and the rest compared."""

MAX_BYTES = 4096
"""Size limit of a pattern, because it is kept as long as the stream."""


def _around_texts(block: bytes) -> list[bytes]:
    """Return the bytes before, between and after the texts of an event."""
    pieces, at = [], 0
    for hole in _TEXT.finditer(block):
        pieces.append(block[at : hole.start(1)])
        at = hole.end(1)
    return [*pieces, block[at:]]


class FastPath:
    """Recognize events that differ from a validated event only in their text, without parsing them.

    The bytes of a validated event, with holes instead of the text, are the pattern. An event with the same bytes around
    its text passes at once. A different event could only hide in the text, which starts after the opening quote of a
    JSON string and ends before its closing one. With both it is one valid JSON string: never a key, a finish reason, an
    index or an error, although it may quote them. An event with an invalid text is parsed, and fails there.

    `take` gets the arguments of a tool call from each event that passes, or returns False for one that must be parsed.
    They are checked at the end of the call. A stream has a path for them beside the one for its texts, so that calls
    that alternate cost the texts no try, and the texts pass again after a call. If such an event was repaired,
    `changed` makes the same repair in those that pass: each piece of a call from SGLang has nulls.

    It gives up after eight patterns in a row that matched no event: some upstreams give each event a new id.
    """

    __slots__ = (
        "_at_head",
        "_at_tail",
        "_at_texts",
        "_gap_bytes",
        "_head",
        "_hole",
        "_made_at",
        "_mark",
        "_middles",
        "_next",
        "_rest",
        "_several_bytes",
        "_tail",
        "_tries",
        "changes",
        "take",
    )

    def __init__(self) -> None:
        self._tries, self._made_at, self._hole = _TRIES, 0, 0
        self.forget()

    def forget(self) -> None:
        """Recognize no event until the next pattern."""
        self._head = self._tail = _NO_EVENT
        self._middles: tuple[bytes, ...] = ()
        self._cut()
        self._next: tuple[bytes, int, bytes | None] | None = None
        self.take: Callable[[str], bool] | None = None
        self.changes: tuple[tuple[bytes, bytes], ...] = ()
        """The bytes around the texts that a repair changed, and what is sent instead."""

    def set_pattern(
        self, block: bytes, events: int, take: Callable[[str], bool] | None = None, sent: bytes | None = None
    ) -> None:
        """Use `block`, a whole event whose data is JSON, as the pattern of the events after it.

        `events` is its number in the stream, `sent` what a repair made of it. An event without text or above MAX_BYTES
        does not become a pattern.
        """
        if take is not None:
            self.forget()
        if len(block) <= MAX_BYTES:
            # made when the next event has arrived, so that the client does not wait for this one meanwhile
            self._next, self.take = (block, events, sent), take

    def _make_pattern(self, block: bytes, events: int, sent: bytes | None) -> None:
        self._next = None
        has_edges = block.startswith(self._head) and block.endswith(self._tail)
        if has_edges and (not self._middles or all(middle in block for middle in self._middles)):
            return  # the pattern fits already: `block` was parsed because of its text, such as half a surrogate pair
        if not self._tries:
            return
        has_matched = events > self._made_at + 1
        self._tries = _TRIES if has_matched else self._tries - 1
        self._made_at = events
        pieces = _around_texts(block)
        if len(pieces) == 1:
            return
        head, *middles, tail = pieces
        if self.take is not None:  # the only member of its name is the one that was read
            found = [(hole, own) for hole, piece in enumerate(pieces) for own in _ARGUMENTS.findall(piece)]
            if len(found) != 1 or not found[0][1]:
                return
            self._hole = found[0][0]
        if sent is not None:
            around = _around_texts(sent)
            if len(around) != len(pieces):
                return
            self.changes = tuple(pair for pair in zip(pieces, around, strict=True) if pair[0] != pair[1])
            if self.changed(block) != sent:  # the same bytes are changed at one place and not at another
                self.forget()
                return
        self._head, self._middles, self._tail = head, tuple(middles), tail
        self._cut()
        gap = tail + head
        self._mark, self._rest = gap[:_MARK_BYTES], gap[_MARK_BYTES:]

    def changed(self, run: bytes) -> bytes:
        """Return what is sent for `run`, whose events match. No text holds the bytes around it: they have quotes."""
        for before, after in self.changes:
            run = run.replace(before, after)
        return run

    def _cut(self) -> None:
        """Set where an event has the head, the tail, and the texts with the quotes around them."""
        head_bytes, tail_bytes = len(self._head), len(self._tail)
        self._at_head, self._at_tail = slice(head_bytes), slice(-tail_bytes, None)
        self._at_texts = slice(head_bytes - 1, 1 - tail_bytes)
        self._gap_bytes = head_bytes + tail_bytes  # the bytes between the texts of two events
        self._several_bytes = 0 if self._middles else 2 * self._gap_bytes

    def count_matching(self, run: bytes) -> int:
        """Return the number of events in `run` if all of them match the pattern, else 0."""
        if self._next is not None:
            self._make_pattern(*self._next)
        if run[self._at_head] != self._head or run[self._at_tail] != self._tail or (size := len(run)) < self._gap_bytes:
            return 0
        texts, count, each = run[self._at_texts], 1, None
        if size >= self._several_bytes:
            gap_bytes = self._gap_bytes
            texts = texts[1:-1]
            fillings = [texts]
            if len(texts) >= gap_bytes:
                first, *others = texts.split(self._mark)
                rest = self._rest
                fillings = [first, *[other[len(rest) :] if other.startswith(rest) else _MISMATCH for other in others]]
            each = self._without_middles(fillings) if self._middles else fillings
            texts, count = b'"%b"' % _BETWEEN_TEXTS.join(each), len(fillings)
        try:
            text = _valid_string(texts)
        except ValueError:
            return 0
        if self.take is not None:
            if each is not None:  # valid each, so joined too
                text = _valid_string(b'"%b"' % b"".join(each[self._hole :: len(self._middles) + 1]))
            return count if self.take(text) else 0
        return count

    def _without_middles(self, fillings: list[bytes]) -> list[bytes]:
        """Return the texts of events with several holes, without the bytes between the holes."""
        texts = []
        for filling in fillings:
            at = 0
            for middle in self._middles:
                end = filling.find(middle, at)
                if end < 0:
                    return [_MISMATCH]
                texts.append(filling[at:end])
                at = end + len(middle)
            texts.append(filling[at:])
        return texts


_NUMBER = re.compile(rb'(?<!\\)"sequence_number"\s*+:\s*+([0-9]++)')
"""The number of an event. The name is not inside a text, because its quotes are not escaped."""

_LAST_DIGIT = 9


class NumberedPath(FastPath):
    """A FastPath for events that also differ in their `sequence_number`, which is one higher in each event.

    It recognizes single events with the number before or after their texts. Without a number it is a FastPath.
    """

    __slots__ = ("_after_number", "_before_number", "_edge", "_is_in_head", "_last_digit", "_number")

    def __init__(self) -> None:
        super().__init__()
        self._number: int | None = None
        """The number of the next event."""
        self._before_number = self._after_number = b""
        self._edge = bytearray()
        """The head or the tail of the next event, with its number. A bytearray, because mostly one digit changes."""
        self._last_digit = 0
        self._is_in_head = False

    def _make_pattern(self, block: bytes, events: int, sent: bytes | None) -> None:
        if self._number is not None:  # `block` has it, unless a number was left out
            if self._is_in_head:
                self._head = bytes(self._edge)
            else:
                self._tail = bytes(self._edge)
        super()._make_pattern(block, events, sent)
        self._number = None
        for is_in_head, edge in ((True, self._head), (False, self._tail)):
            if (found := _NUMBER.search(edge)) is not None:
                self._is_in_head, self._number = is_in_head, int(found[1])
                self._before_number, self._after_number = edge[: found.start(1)], edge[found.end(1) :]
                self._count_on()
                return

    def _count_on(self) -> None:
        self._number = number = (self._number or 0) + 1
        self._edge = bytearray(b"%b%d%b" % (self._before_number, number, self._after_number))
        self._last_digit = len(self._edge) - len(self._after_number) - 1

    def count_matching(self, run: bytes) -> int:
        """Return 1 if `run` is one event that matches the pattern and has the next number, else 0."""
        if self._next is not None:
            self._make_pattern(*self._next)
        if (number := self._number) is None:
            return super().count_matching(run)
        head, tail = (self._edge, self._tail) if self._is_in_head else (self._head, self._edge)
        head_bytes, tail_bytes = len(head), len(tail)
        if run[:head_bytes] != head or run[-tail_bytes:] != tail or len(run) < head_bytes + tail_bytes:
            return 0
        texts, middles = run[head_bytes:-tail_bytes], self._middles
        if len(middles) == 1:  # one that is not found leaves its quotes
            texts = texts.replace(middles[0], _BETWEEN_TEXTS, 1)
        elif middles:
            texts = _BETWEEN_TEXTS.join(self._without_middles([texts]))
        try:
            _valid_string(b'"' + texts + b'"')
        except ValueError:
            return 0
        if number % 10 == _LAST_DIGIT:
            self._count_on()
        else:  # without a call, because it runs for every event
            self._number, self._edge[self._last_digit] = number + 1, self._edge[self._last_digit] + 1
        return 1
