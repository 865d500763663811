"""What one event says: its fields by the rules of the event stream format, its data as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.json_scan import SMALL_BYTES, count_fractions, json_value

DONE = b"data: [DONE]\n\n"
"""What ends a stream of OpenAI's."""

_LINE = re.compile(rb"([^\r\n]*+)(?>\r\n?|\n)")
_KEPT = (b"event", b"id", b"retry")
_CR = 13


@dataclass(frozen=True, slots=True)
class Event:
    """One event taken apart. `data` is its data lines joined with LF, None where it has none.

    `comments` are its comment lines as they came, line ends included. `is_dispatched` says that
    openai-python makes an event of it though it has no data: it does for a name, an id or a retry
    (`SSEDecoder.decode`), and then fails on the empty text.
    """

    data: bytes | None
    name: bytes
    id: bytes
    comments: bytes
    is_dispatched: bool


def single_line_data(run: bytes) -> bytes | None:
    """The data of `run` if it is exactly one event of one data line, ended by LF or CRLF; else None."""
    if not run.startswith(b"data:"):
        return None
    end = run.find(b"\n")
    if end == len(run) - 2 and run.endswith(b"\n\n") and _CR not in run:
        return run[5:end]
    if end == len(run) - 3 and run.endswith(b"\r\n\r\n") and run.find(b"\r") == end - 1:
        return run[5 : end - 1]
    return None


def parse_event(block: bytes) -> Event:
    """Take one whole event apart; unknown fields are skipped, the last of a repeated field counts."""
    data, comments = bytearray(), bytearray()
    fields: dict[bytes, bytes] = {}  # `dict[bytes, bytes]()` takes 0.8 µs
    for match in _LINE.finditer(block):
        line = match[1]
        if line.startswith(b":"):
            comments += match[0]
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data += value + b"\n"
        elif name in _KEPT and b"\0" not in value:
            fields[name] = value
    event, identity = fields.get(b"event", b""), fields.get(b"id", b"")
    return Event(
        data=bytes(data[:-1]) if data else None,
        name=event,
        id=identity,
        comments=bytes(comments),
        is_dispatched=bool(data or event or identity) or _is_number(fields.get(b"retry", b"")),
    )


def _is_number(value: bytes) -> bool:
    try:
        int(value)
    except ValueError:
        return False
    return True


LARGE_BYTES = 256 * 1024
"""Any smaller text is read within 40 ms."""
MOST_WORK = 2_000_000
"""About 40 ms: a number in a list counts 1, a member 5, an object or a list 9."""


FRACTION_WORK, SLOW_WORK, FEW_NUMBERS = 4, 20, 1_000
"""What a number with a fraction or an exponent counts beside that, and one whose exponent has three digits. Where
LARGE_BYTES hold fewer numbers, they do not matter."""


LENIENT_WORK = MOST_WORK // 5
"""The standard library's parser is slower."""


def takes_long(data: bytes, most_work: int = MOST_WORK) -> bool:
    """Whether to build the value of `data` would occupy the event loop: commas and brackets in its texts count too."""
    if len(data) <= LARGE_BYTES:
        return False
    work = 0
    for at in range(0, len(data), LARGE_BYTES):
        work += _work(data[at : at + LARGE_BYTES])
        if work > most_work:
            return True
    return False


def _work(part: bytes) -> int:
    commas = part.count(b",")
    work = commas + 4 * part.count(b'":') + 8 * (part.count(b"[") + part.count(b"{"))
    if commas < FEW_NUMBERS:
        return work
    fractions, slow = count_fractions(part)
    return work + FRACTION_WORK * min(fractions, commas) + SLOW_WORK * min(slow, commas)


def read_json(data: bytes) -> Any:
    """The JSON value of `data`; raises ValueError for what is none, or has too many values.

    The slower standard parser has the last word: NaN, and half of a surrogate pair (a character cut
    in two by an upstream's tokens), come from real upstreams, and clients accept them.
    """
    decode: Callable[[bytes], Any] = msgspec.json.decode
    if len(data) > SMALL_BYTES:  # few events are, and whatever a smaller one holds is read fast
        decode = json_value
        if takes_long(data):
            raise ValueError("too many values")
    try:
        return decode(data)
    except (ValueError, RecursionError):
        pass
    if takes_long(data, LENIENT_WORK):
        raise ValueError("too many values")
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deep") from None


def is_json(data: bytes) -> bool:
    try:
        read_json(data)
    except ValueError:
        return False
    return True
