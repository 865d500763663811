"""Read a large event without its long texts."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from typing import Any

import msgspec

from gatepass.json_body import OBJECT, RAW, Piece, has_more, json_value, string
from gatepass.sse.tool_calls import begun_escape, has_invalid_escape, unescaped

MOST_BYTES = 2 * 1024 * 1024
"""What a large event may have beside its long texts. An event is large because of few long texts, such as images."""
MOST_VALUES = 100_000
"""Commas and brackets beside the long texts: a large event with more takes over 50 ms. An image of 32 MiB takes 20."""
WINDOW_BYTES = 64 * 1024
"""A string that fills a window is long."""
KEPT_BYTES = 4 * 1024
"""So much of a long string is kept."""
TURN_WINDOWS = 32
"""So many windows of arguments are read in one turn."""

_ARGUMENTS = re.compile(rb'"(?:arguments|partial_json)"\s*+:\s*+"\Z')
_PLACE = b"\0"  # of long arguments: no string of JSON contains it


def outlined(data: memoryview) -> Generator[bytes, None, tuple[Any, dict[str, msgspec.Raw]]]:
    """Yield after each turn of at most 30 ms. Return a large event without its long texts, and its members as they are.

    The event is None if the event has too much beside its long texts, which may not be UTF-8. Of long arguments it has
    what `structure` keeps. Raises ValueError if `data`, which comes from `split_large`, is not JSON or neither an
    object nor a list.
    """
    arguments, kept, members = list[memoryview](), list[bytes](), dict[str, msgspec.Raw]()
    text = shortened(data, MOST_BYTES, arguments)
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
        windows, bytes_left = 0, MOST_BYTES
        for before, one in zip(text.split(_PLACE), [*arguments, memoryview(b"")], strict=True):
            kept.append(before)
            for window in structure(one):
                kept.append(msgspec.json.encode(window.decode())[1:-1])
                windows, bytes_left = windows + 1, bytes_left - len(kept[-1])
                if bytes_left < 0:
                    return None, members
                if windows % TURN_WINDOWS == 0:
                    yield b""
        payload = json_value(b"".join(kept))
    except RecursionError:
        raise ValueError("nested too deep") from None
    yield b""
    return payload, members


_OF_STRING = re.compile(rb"[^\s\[\]{},:0-9.+\-eEtrufalsnNIiy]|[A-Za-z]{10}")
"""What JSON has in its strings alone."""
_INVALID_ESCAPE = rb"\q"


def structure(text: memoryview) -> Iterator[bytes]:
    """Yield `text`, arguments as a JSON string without quotes, and a letter for each window inside a string of theirs.

    What follows a window that cannot be decoded is left out: then they are no whole JSON.
    """
    at, carried = 0, b""
    while at < len(text) and (part := _beginning(bytes(text[at : at + WINDOW_BYTES]))):
        window, is_first = carried + string(b'"%b"' % part).encode(), at == 0
        at += len(part)
        carried = begun_escape(window)  # it is not cut
        window = window.removesuffix(carried)
        if has_invalid_escape(plain := unescaped(window)):
            yield _INVALID_ESCAPE
        else:
            yield window if is_first or b'"' in plain or _OF_STRING.search(window) is None else b"x"
    yield carried


def shortened(text: Piece, most_bytes: int, arguments: list[memoryview] | None = None) -> bytes | None:
    """Return the JSON `text` with only the beginning of each string that fills a window.

    None if the windows of the rest have more than `most_bytes`, or if such a string is a name: to decode one of 30 MiB
    takes 50 ms. Such strings that are arguments are added to `arguments`, and replaced with _PLACE.
    """
    view, kept, begin, end, opened = memoryview(text), list[Piece](), 0, 0, 0
    for start, window in _windows(text):
        if start > end:  # all between belongs to one string, which the window before opens
            beginning = _beginning(bytes(view[opened : min(end, opened + KEPT_BYTES)]))
            kept += (view[begin:opened], beginning, "…".encode())
            begin = start + window.find(b'"')
            if arguments is not None and _ARGUMENTS.search(bytes(view[max(opened - KEPT_BYTES, 0) : opened])):
                kept[-2:] = (_PLACE,)
                arguments.append(view[opened:begin])
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
        window = unescaped(window)
        if is_inside and b'"' not in window:  # `_is_within_string` rejects the second half of a surrogate pair
            continue
        yield at, window
        is_inside ^= window.count(b'"') % 2 == 1


def _is_within_string(text: bytes) -> bool:
    """Whether all of `text`, which begins in a string and ends in no escape, belongs to that string."""
    try:
        RAW.decode(b'"' + text)  # takes a tenth of the time of `unescaped`
    except msgspec.DecodeError as error:
        return str(error) == "Input data was truncated"
    return False
