"""Read a large JSON body without blocking the event loop: in slices, or in a thread.

- A body up to INLINE_BYTES is read on the event loop.
- A large body with much structure (`needs_scan`) is scanned in slices (`scanned`). The event loop runs between them.
- Other work on a body that is large or has many values (`is_heavy`) is done in a thread (`BodyThread`).

A thread is not enough for the largest bodies: msgspec needs up to 0.3 s for 32 MiB and holds the interpreter's lock. So
a scan finds the top-level members and cuts the body at commas into fragments. msgspec validates each fragment,
completed with the brackets that are open around it. The body is valid if all fragments are.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from gatepass.errors import BodyTooComplex, GatepassError, InvalidJson
from gatepass.http_client.response_body import joined
from gatepass.json_scan import (
    WHOLE_ESCAPES,
    JsonScanner,
    Member,
    ScannedBody,
    has_more_values,
    may_spell,
    occurrences,
    string,
)
from gatepass.protocols.request import AT_BYTE, HALF_PAIR, MAX_DEPTH, json_error, too_deep, top_level
from gatepass.types import Call

UNSCANNED_BYTES = 1024 * 1024
"""A body up to this size is decoded without a scan, in a thread: the worst one takes 35 ms."""
UNSCANNED_INPUTS_BYTES = 256 * 1024
"""The same limit for an embeddings request, which lists its inputs."""
SIMPLE_BYTES = 4 * 1024 * 1024
SIMPLE_VALUES, SIMPLE_ESCAPES = 50_000, 100_000
"""A body up to this size with at most this much structure is decoded without a scan too: the worst one takes 10 ms. A
scan takes 15 ms for each MiB. An embeddings request is excepted, because it lists its inputs."""
FEW_ESCAPES = 4_000
"""A larger body with few values and at most this many escapes is decoded without a scan too: images and long lines."""

SLICE_S = 0.005
WINDOW_BYTES = 16 * 1024
NAME_BYTES = 16 * 1024
"""The longest name or number at the top level, with the blanks around it."""
FRAGMENT_BYTES = 256 * 1024
LARGEST_FRAGMENT_BYTES = 8 * FRAGMENT_BYTES
STRING_BYTES = 1024 * 1024
"""A longer string is validated in pieces."""
KEPT_BYTES = 1024
"""The ends of larger values are kept, so that no rule searches for them again."""
UNCOUNTED_BYTES = 8
"""At most this many bytes between two brackets or strings are not searched for commas."""

MOST_VALUES = 500_000
"""Limit outside `messages`, where a rule may build objects. OpenAI accepts 300,000 token ids in one request."""
MOST_MESSAGES_VALUES = 6_000_000
"""Limit inside `messages`, which rules only step over. A chat of 32 MiB with messages of two letters has fewer."""
MOST_REPLY_VALUES = 24_000_000
"""Limit in a reply. A chat of 128,000 tokens with 20 alternatives each has 19 million values."""
MOST_NAMES = 20_000
"""More names are not kept. To free the 1,800,000 names that 30 MiB can have takes 0.4 s."""
MOST_MEMBERS = 1_000
"""No API has more than 60 members at its top level."""

# Possessive quantifiers (`*+`) and bounded ones: no body can cause backtracking, so each match takes linear time.
_BLANK = rb"[ \t\n\r]"
_BEGIN = re.compile(_BLANK + rb"{0,1024}+\{")
_END = re.compile(_BLANK + rb"*+\}" + _BLANK + rb"*+")
_NAME = re.compile(
    _BLANK + rb"*+,?+" + _BLANK + rb'*+("[^"\\]*+(?:\\.[^"\\]*+)*+")' + _BLANK + rb"*+:" + _BLANK + rb"*+"
)
_SCALAR = re.compile(rb"[^ \t\n\r,\]}]++")
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]"]')
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+')
_CUT = re.compile(
    rb"(?:"
    + _BLANK
    + rb"*+:"
    + _BLANK
    + rb"*+[^ \t\n\r,\]}\"{\[]++)?+"
    + _BLANK
    + rb"{0,1024}+,(?="
    + _BLANK
    + rb"{0,1024}+[^ \t\n\r,\]}])"
)
_NAMES = re.compile(rb'"(?:base64"|[^"\\]{1,64}+"(?=[ \t\n\r]*+:))')
"""Names of members, and `"base64"`, the only value that a rule searches."""
_WORD_AT_END = re.compile(rb"[A-Za-z]++\Z")
_QUOTE, _BACKSLASH, _OBJECT, _ARRAY = b'"\\{['
_CLOSERS = {_OBJECT: b"}", _ARRAY: b"]"}
_TOO_LONG = "a name, a number or a run of blanks that is too long"
_VALUE = msgspec.json.Decoder(msgspec.Raw)

INLINE_BYTES = 32 * 1024
INLINE_VALUES = 4_000
"""With at most this many commas and brackets a rule takes 15 ms at most, which may block the event loop."""
ON_LOOP_BYTES, ON_LOOP_STEPS = 256 * 1024, 30_000
"""A body up to this size is decoded on the event loop: 10 ms at most. A search for its members may take this many steps
of a JsonScanner: 8 ms at most."""
MOST_ON_LOOP_BYTES = 4 * 1024 * 1024
"""A body with few values is decoded on the event loop up to this size: 8 ms at most."""

Slices = Generator[None, None, None]
Result = TypeVar("Result")


def is_heavy(body: bytes, inline_bytes: int = UNSCANNED_BYTES) -> bool:
    """Return whether reading `body`, of more than `inline_bytes` or of many values, may block the event loop."""
    if len(body) <= INLINE_BYTES or type(body) is ScannedBody:
        return type(body) is ScannedBody
    if len(body) > inline_bytes:
        return True
    has_many_separators = occurrences(body, b",{[", INLINE_VALUES) > INLINE_VALUES
    return has_many_separators and has_more_values(body, INLINE_VALUES)


def fits_loop(body: bytes) -> bool:
    """Return whether `body` may be decoded on the event loop."""
    return len(body) <= ON_LOOP_BYTES or (len(body) <= MOST_ON_LOOP_BYTES and not has_more_values(body, INLINE_VALUES))


def needs_scan(body: bytes, *, has_inputs: bool = False) -> bool:
    """Return whether `body` is large and has much structure. `has_inputs`: it is an embeddings request."""
    if len(body) <= (UNSCANNED_INPUTS_BYTES if has_inputs else UNSCANNED_BYTES) or type(body) is ScannedBody:
        return False
    if len(body) <= SIMPLE_BYTES and not has_inputs:
        return occurrences(body, b"\\", SIMPLE_ESCAPES) > SIMPLE_ESCAPES or has_more_values(body, SIMPLE_VALUES)
    return _has_more_than_few_escapes(body) or has_more_values(body, INLINE_VALUES)


def _has_more_than_few_escapes(body: bytes) -> bool:
    at = -1  # `occurrences` would copy the body, which takes 30 ms for 32 MiB
    for _ in range(FEW_ESCAPES + 1):
        at = body.find(b"\\", at + 1)
        if at < 0:
            return False
    return True


async def with_scanned_body(call: Call) -> Call:
    """Return `call` with its body scanned if it needs a scan. A rule that edits a scanned body returns plain bytes."""
    has_inputs = "input" in call.operation.members
    if not needs_scan(call.body, has_inputs=has_inputs):
        return call
    return replace(call, body=await scanned(call.body))


class BodyThread:
    """The thread for work on large bodies. With one, the event loop gets the interpreter's lock every 5 ms."""

    __slots__ = ("_executor",)

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "gatepass-bodies")

    async def run(self, body: bytes, work: Callable[[], Result], inline_bytes: int = UNSCANNED_BYTES) -> Result:
        """Return the result of `work`. It runs in the thread if `body`, which it reads, is heavy (`is_heavy`).

        `work` must not change shared state, and must not call C code that holds the interpreter's lock for more than
        50 ms. Python code hands the lock to the event loop in time.
        """
        if not is_heavy(body, inline_bytes):
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """End the thread after its current work."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def scanned(body: bytes, *, counts_inputs: bool = False) -> ScannedBody:
    """Scan `body`, a JSON object, and return it with its members. The event loop runs after every SLICE_S.

    `counts_inputs` also counts the elements of `input`. Raises InvalidJson and BodyTooComplex.
    """
    scan = Scan(body)
    await _run(scan.run(counts_inputs=counts_inputs))
    return scan.result


async def scanned_reply(body: bytes) -> ScannedBody:
    """Scan a reply as `scanned` does. NaN, Infinity and bytes that are not UTF-8 are accepted, as clients do."""
    scan = Scan(body, MOST_REPLY_VALUES)
    try:
        await _run(scan.run(checks_utf8=False))
    except InvalidJson:
        finite = await _finite(body)
        if finite == body:
            raise
        scan = Scan(finite, MOST_REPLY_VALUES, original=body)
        await _run(scan.run(checks_utf8=False))
    return scan.result


async def _run(slices: Slices) -> None:
    started_s = time.perf_counter()
    for _ in slices:
        if time.perf_counter() - started_s > SLICE_S:
            await asyncio.sleep(0)
            started_s = time.perf_counter()


async def _finite(body: bytes) -> bytes:
    """Return `body` with NaN and Infinity replaced by numbers of the same length, in its texts too."""
    parts, at = list[bytes](), 0
    while at < len(body):
        end = at + FRAGMENT_BYTES
        word = _WORD_AT_END.search(body, end - len("Infinity"), end)  # no cut inside of a word
        end = end if word is None else word.start()
        parts.append(body[at:end].replace(b"NaN", b"0.0").replace(b"Infinity", b"0.000000"))
        at = end
        await asyncio.sleep(0)
    return await joined(parts)


class Scan:
    """One pass over `body`. `run` yields where the pass may pause. After it, `result` is the scanned body.

    `original` has its values at the same positions, and replaces `body` in the result.
    """

    result: ScannedBody

    def __init__(self, body: bytes, most_values: int = MOST_VALUES, *, original: bytes | None = None) -> None:
        self._body = body
        self._original = body if original is None else original
        self._limit = most_values
        self._at = 0
        self._values = 0
        self._members: list[Member] = []
        self._ends: dict[int, int] = {}
        self._names: set[bytes] = set()
        self._may_spell = False
        self._most_values = most_values
        self._stack = bytearray()
        self._opened: list[int] = []
        """Their positions, without the first."""
        self._prefix = b""
        self._begin = 0
        """The position of the first byte that is not validated."""
        self._before: list[tuple[int, int]] = []
        """The spans of the fragment before `_begin`. After each comes a long string that was validated alone."""

    def run(self, *, counts_inputs: bool = False, checks_utf8: bool = True) -> Slices:
        body = self._body
        if checks_utf8 and not body.isascii():
            yield from self._check_utf8()
        # only a reply may begin with a byte order mark
        begin = _BEGIN.match(body, len(codecs.BOM_UTF8) if not checks_utf8 and body.startswith(codecs.BOM_UTF8) else 0)
        if begin is None:
            top_level(body[:NAME_BYTES])
            raise _too_complex(_TOO_LONG)
        self._at, self._begin = begin.end(), begin.start()
        self._stack.append(_OBJECT)
        while (name := _NAME.match(body, self._at, self._at + NAME_BYTES)) is not None:
            before, is_chat = self._values, name[1] == b'"messages"'
            self._most_values = MOST_MESSAGES_VALUES if is_chat else self._limit
            self._values = 0 if is_chat else before
            end = yield from self._value(name.end())
            self._values = before if is_chat else self._values
            if end is None or not self._keep_member(name[1], name.start(1), name.end(), end):
                break
            self._at = end
            self._cut(end)
            yield
        end = min(len(body), self._begin + 2 * LARGEST_FRAGMENT_BYTES)
        self._validate(end, b"")
        if _END.fullmatch(body, self._at, end) is None or end < len(body):  # the pass ended before the body
            raise _too_complex(_TOO_LONG)
        yield
        names = b"".join(self._names)
        self.result = ScannedBody.create(self._members, self._ends, names, may_spell=self._may_spell)
        yield from self.result.fill(self._original)
        if counts_inputs:
            yield from self._count_inputs()

    def _check_utf8(self) -> Slices:
        view, at = memoryview(self._body), 0
        while at < len(view):
            end = at + FRAGMENT_BYTES
            try:
                at += codecs.utf_8_decode(view[at:end], "strict", end >= len(view))[1]
            except UnicodeDecodeError as error:
                where = at + error.start
                raise InvalidJson(f"The body is not UTF-8 text: {error.reason} at byte {where}.") from None
            yield

    def _keep_member(self, name: bytes, start: int, value: int, end: int) -> bool:
        try:
            text = string(name)
        except ValueError:
            return False
        self._members.append(Member(text, start, value, end))
        if len(self._members) > MOST_MEMBERS:
            raise _too_complex(f"more than {MOST_MEMBERS} members at its top level")
        return True

    def _value(self, at: int) -> Generator[None, None, int | None]:
        """Return the end of the value that begins at `at`, None if it does not end."""
        first = self._body[at : at + 1]
        if first == b'"':
            return (yield from self._string(at))
        if first in (b"{", b"["):
            return (yield from self._container(at))
        scalar = _SCALAR.match(self._body, at, at + NAME_BYTES)
        return None if scalar is None else scalar.end()

    def _string(self, at: int) -> Generator[None, None, int | None]:
        body = self._body
        end = body.find(b'"', at + 1)
        has_escapes = end > 0 and body.find(b"\\", at, end) > 0
        if end > 0 and body[end - 1] == _BACKSLASH:
            end = at + 1
            while end < len(body) and body[end] != _QUOTE:
                inside = _INSIDE.match(body, end, end + FRAGMENT_BYTES)
                start, end = end, inside.end()  # type: ignore[union-attr]  # matches the empty text too
                if end == start:
                    return None
                yield
            if end >= len(body):
                return None
        if end < 0:
            return None
        end += 1
        if end - at > STRING_BYTES:
            yield from self._check_string(at + 1, end - 1, has_escapes=has_escapes)
            self._before.append((self._begin, at))
            self._begin = end
        self._keep_end(at, end)
        return end

    def _check_string(self, at: int, end: int, *, has_escapes: bool) -> Slices:
        """Validate the characters between the quotes of a long string, cut outside of its escapes."""
        while at < end:
            stop = min(at + FRAGMENT_BYTES, end)
            if has_escapes:
                whole = WHOLE_ESCAPES.match(self._body, at, stop)
                stop = max(whole.end(), at + 1)  # type: ignore[union-attr]  # matches the empty text too
            try:
                _VALUE.decode(b'"%b"' % self._body[at:stop])
            except msgspec.DecodeError as error:
                reason = str(error) if AT_BYTE.search(str(error)) else f"{HALF_PAIR[0]} (byte {stop - at})"
                raise self._invalid(reason, [(at, stop)], len(b'"')) from None
            at = stop
            yield

    def _container(self, at: int) -> Generator[None, None, int | None]:
        """Return the end of the array or object that begins at `at`, None if it does not end."""
        floor = len(self._stack)
        while at < len(self._body):
            at, is_closed = self._window(at, floor)
            if self._values > self._most_values:
                raise _too_complex(f"more than {self._most_values} values")
            if is_closed:
                return at
            if self._body[at : at + 1] == b'"':  # a string that continues after the window
                end = yield from self._string(at)
                if end is None:
                    return None
                at = end
                self._cut(at)
            yield
        return None

    def _window(self, at: int, floor: int) -> tuple[int, bool]:
        """Pass over the tokens of one window. Return the new position, and whether the stack is at `floor` again."""
        body, stack, opened = self._body, self._stack, self._opened
        window_end = min(at + WINDOW_BYTES, len(body))
        for token in _TOKEN.finditer(body, at, window_end):
            start, end = token.span()
            self._values += 1 if start - at <= UNCOUNTED_BYTES else 1 + body.count(b",", at, start)
            at, sign = end, body[start]
            if sign in _CLOSERS:
                stack.append(sign)
                opened.append(start)
                if len(stack) > MAX_DEPTH:
                    raise too_deep()
                continue
            if sign != _QUOTE:
                self._values -= 1  # a closing bracket is not a value
                stack.pop()
                start = opened.pop()
                if len(stack) == floor:
                    self._keep_end(start, end)
                    return end, True
            elif end == start + 1:  # a lone quote: the string does not end in this window
                return start, False
            if end - start > KEPT_BYTES:
                self._keep_end(start, end)
            if end - self._begin > FRAGMENT_BYTES:
                self._cut(end)
        self._values += body.count(b",", at, window_end)
        self._cut(body.rfind(b",", at, window_end) if at < window_end else at)
        if window_end - self._begin > LARGEST_FRAGMENT_BYTES:  # blanks without a comma
            raise _too_complex(_TOO_LONG)
        return window_end, False

    def _keep_end(self, start: int, end: int) -> None:
        # A string without escapes is not kept, because a search finds its end at once.
        if end - start > KEPT_BYTES and (self._body[start] != _QUOTE or self._body.find(b"\\", start, end) > 0):
            self._ends[start] = end

    def _cut(self, at: int) -> None:
        """End the fragment at `at`, after a value or before a comma, if it is large enough and a comma follows."""
        body = self._body
        if at - self._begin <= FRAGMENT_BYTES:
            return
        comma = _CUT.match(body, at, at + WINDOW_BYTES)
        before = body[max(at - KEPT_BYTES, self._begin) : at].rstrip(b" \t\n\r")[-1:]
        # A cut directly after a bracket or a comma would leave a fragment without a value.
        if comma is not None and before not in (b"", b",", b"[", b"{"):
            self._validate(comma.end() - 1, b"".join(_CLOSERS[sign] for sign in reversed(self._stack)))
            # The next fragment starts with the open brackets, and with a name for each value that is not complete.
            outer = b"".join(b'{"":' if sign == _OBJECT else b"[" for sign in self._stack[:-1])
            self._begin, self._prefix = comma.end(), outer + bytes(self._stack[-1:])
        elif at - self._begin > LARGEST_FRAGMENT_BYTES:
            raise _too_complex(_TOO_LONG)

    def _validate(self, end: int, closing: bytes) -> None:
        """Validate the fragment that ends at `end`, and collect its names."""
        spans = [*self._before, (self._begin, end)]
        # `""` replaces each long string: `_check_string` has validated it.
        text = b"".join((self._prefix, b'""'.join(self._body[start:stop] for start, stop in spans), closing))
        self._before = []
        try:
            _VALUE.decode(text)
        except msgspec.DecodeError as error:
            raise self._invalid(str(error), spans, len(self._prefix)) from None
        if self._may_spell:  # then nothing reads the names
            return
        self._names.update(_NAMES.findall(text))
        if len(self._names) > MOST_NAMES or may_spell(text):
            self._names, self._may_spell = set(), True

    def _invalid(self, reason: str, spans: list[tuple[int, int]], at: int) -> GatepassError:
        """Return the error for msgspec's `reason` about `spans`; `at` is their position in the text that it read."""
        found = AT_BYTE.search(reason)
        if found is None and spans[-1][1] < len(self._body):  # the pass ended before the body
            return _too_complex(_TOO_LONG)
        if found is None:
            return InvalidJson(json_error(self._body, reason))
        left = int(found[1]) - at
        for start, end in spans:
            if left <= end - start:
                break
            left -= end - start + len(b'""')
        return InvalidJson(json_error(self._body, f"{reason[: found.start()]} (byte {start + left})"))

    def _count_inputs(self) -> Slices:
        """Count the inputs as `normalize.embeddings_request` does: a list of token ids is one input."""
        value = next((member.value for member in reversed(self._members) if member.name == "input"), None)
        self.result.inputs = 1
        if value is None or self._body[value] != _ARRAY:
            return
        count, walk = 0, JsonScanner(self.result, steps_left=100 * MOST_VALUES)
        for start, _ in walk.elements(value):
            if not count and self._body[start] in b"-0123456789":
                return
            count += 1
            if not count % 1_000:
                yield
        self.result.inputs = count


def _too_complex(what: str) -> BodyTooComplex:
    return BodyTooComplex(f"The body has {what}. Send less structure in one request.")
