"""Read a large event without its long texts."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Any

import msgspec

from gatepass.json_body import OBJECT, RAW, Piece, has_more, json_value
from gatepass.sse.chunk import calls_of, messages_of

MOST_BYTES = 2 * 1024 * 1024
"""What a large event may have beside its long texts. An event is large because of few long texts, such as images."""
MOST_VALUES = 100_000
"""Commas and brackets beside the long texts: a large event with more takes over 50 ms. An image of 32 MiB takes 20."""
WINDOW_BYTES = 256 * 1024
"""A string that fills a window is long."""
KEPT_BYTES = 4 * 1024
"""So much of a long string is kept."""

_CUT = "…"
_ESCAPED_CHAR = re.compile(rb'\\["\\]')
MOST_ESCAPED_CHARS = 2_000


def outlined(data: memoryview) -> Generator[bytes, None, tuple[Any, dict[str, msgspec.Raw]]]:
    """Yield after each turn of at most 30 ms. Return a large event without its long texts, and its members as they are.

    The event is None if the event has too much beside its long texts, which may not be UTF-8. Raises ValueError if
    `data`, which comes from `split_large`, is not JSON or neither an object nor a list.
    """
    members = dict[str, msgspec.Raw]()
    text = shortened(data, MOST_BYTES)
    if text is None or has_more(text, b",[]{}", MOST_VALUES):
        return None, members
    if text.lstrip()[:1] not in (b"{", b"["):
        raise ValueError("neither an object nor a list")
    yield b""
    try:
        if text.lstrip()[:1] == b"{":
            members = OBJECT.decode(data)
        else:
            RAW.decode(data)
        payload = json_value(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    yield b""
    return payload, members


def has_long_arguments(choices: list[Any]) -> bool:
    """Return whether the outline of an event has arguments of a function that are an object, or not whole."""
    for message in (message for choice in choices for message in messages_of(choice)):
        for call in (*calls_of(message), {"function": message.get("function_call")}):
            function = call.get("function") if isinstance(call, dict) else None
            arguments = function.get("arguments") if isinstance(function, dict) else None
            if isinstance(arguments, dict | list) or (isinstance(arguments, str) and arguments.endswith(_CUT)):
                return True
    return False


def shortened(text: Piece, most_bytes: int) -> bytes | None:
    """Return the JSON `text` with only the beginning of each string that fills a window.

    None if the windows of the rest have more than `most_bytes`, or if such a string is a name: to decode one of 30 MiB
    takes 50 ms.
    """
    view, kept, begin, end, opened = memoryview(text), list[Piece](), 0, 0, 0
    for start, window in _windows(text):
        if start > end:  # all between belongs to one string, which the window before opens
            beginning = _beginning(bytes(view[opened : min(end, opened + KEPT_BYTES)]))
            kept += (view[begin:opened], beginning, _CUT.encode())
            begin = start + window.find(b'"')
            if bytes(view[begin + 1 : begin + 1 + WINDOW_BYTES]).lstrip()[:1] == b":":
                return None
        end, opened = start + len(window), start + window.rfind(b'"') + 1
        most_bytes -= len(window)
        if most_bytes < 0:
            return None
    return b"".join((*kept, view[begin:end]))


def _beginning(text: bytes) -> bytes:
    """Return `text`, the beginning of a JSON string, without the part of an escape or of a character at its end.

    Escapes stay: a secret with one is masked only if it is whole.
    """
    text = text.decode("utf-8", "ignore").encode()
    for end in range(len(text), len(text) - len(r"\ud83d\ude00"), -1):
        try:
            RAW.decode(b'"%b"' % text[:end])
        except msgspec.DecodeError:
            continue
        return text[:end]
    return b""


def _windows(text: Piece) -> Iterator[tuple[int, bytes]]:
    """Yield each window of `text`, JSON: its start, and its bytes without escaped quotes.

    A window that is a part of one string is left out. None begins or ends inside an escape of two characters.
    """
    view, end, is_inside = memoryview(text), 0, False
    while end < len(view):
        at = end
        window = bytes(view[at : at + WINDOW_BYTES])
        if (len(window) - len(window.rstrip(b"\\"))) % 2:
            window = bytes(view[at : at + WINDOW_BYTES + 1])
        end += len(window)
        # nothing of a long string is read, and escapes only where there are quotes too
        if is_inside and (b'"' not in window or (b"\\" in window and _is_within_string(window))):
            continue
        window = _unescaped(window)
        if is_inside and b'"' not in window:  # `_is_within_string` rejects the second half of a surrogate pair
            continue
        yield at, window
        is_inside ^= window.count(b'"') % 2 == 1


def _unescaped(text: bytes) -> bytes:
    """Return JSON, or the beginning of one, without its quotes and backslashes that are escaped."""
    if b"\\" not in text:
        return text
    # The pattern takes half as long as `replace` for few escapes, and ten times as long for many. A replacement of the
    # same length works in place, twice as fast as a shorter one (CPython 3.11).
    if text.count(b"\\") <= MOST_ESCAPED_CHARS:
        return _ESCAPED_CHAR.sub(b"__", text)
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _is_within_string(text: bytes) -> bool:
    """Whether all of `text`, which begins in a string and ends in no escape, belongs to that string."""
    try:
        RAW.decode(b'"' + text)  # takes a tenth of the time of `_unescaped`
    except msgspec.DecodeError as error:
        return str(error) == "Input data was truncated"
    return False
