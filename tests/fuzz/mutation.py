"""Mutate inputs: change bytes and words; repeat, drop, swap and splice events."""

import re
from collections.abc import Sequence
from random import Random

from gatepass.sse.event import split_events

LONGEST_BYTES = 16_384

VALUES = (
    *(b"null", b"[]", b"{}", b'""', b"0", b"-1", b"true", b"1e400", b"NaN", b'"\\ud83d"', b"123456789012345678901"),
    *(b'"stop"', b'"tool_calls"', b'"assistant"', b'"call_1"', b"[null]", b'[{"index":1}]', b'"text"', b'{"a":1}'),
)
EDGES = (
    *(
        *VALUES,
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\t",
        b" ",
        b",",
        b":",
        b'"',
    ),
    *(
        b"'",
        b"\\",
        b"data:",
        b"data: [DONE]\n\n",
        b"{",
        b"}",
        b"[" * 40,
        b"9" * 400,
        b"99999999999999999999",
        b"0\r\n\r\n",
    ),
)
_TOKEN = re.compile(rb"\w+|[^\w]+")


def mutated(corpus: Sequence[bytes], random: Random) -> bytes:
    """Return a new input of at most `LONGEST_BYTES`."""
    body = random.choice(corpus)
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        body = random.choice(_CHANGES)(body, corpus, random)
    return body[:LONGEST_BYTES]


def _spot(body: bytes, random: Random, longest: int = 24) -> tuple[int, int]:
    start = random.randint(0, len(body))
    return start, min(len(body), start + random.randint(0, longest))


def _word(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    """Insert a word of another input, or one that parsers often get wrong."""
    start, end = _spot(body, random)
    other = random.choice(corpus)
    found = _TOKEN.search(other, random.randint(0, len(other))) if random.random() < 0.5 else None
    return body[:start] + (random.choice(EDGES) if found is None else found[0]) + body[end:]


_OF_CALL = re.compile(rb'"(?:type|id|name|index|function|custom|arguments|input)" *(:)')


def _of_call(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    """Replace a value of a tool call by one of any kind."""
    return _value(body, corpus, random, [match.start(1) for match in _OF_CALL.finditer(body)])


def _value(body: bytes, _: Sequence[bytes], random: Random, places: Sequence[int] = ()) -> bytes:
    """Replace a value after a colon, so that the text often stays JSON."""
    colons = places or [at for at, byte in enumerate(body) if byte == ord(":")]
    if not colons:
        return body
    start = random.choice(colons) + 1
    end = start
    while end < len(body) and body[end] not in b",}]\n":
        end += 1
    return body[:start] + random.choice(VALUES) + body[end:]


def _bits(body: bytes, _: Sequence[bytes], random: Random) -> bytes:
    changed = bytearray(body)
    for _each in range(random.randint(1, 4)):
        if changed:
            changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _cut(body: bytes, _: Sequence[bytes], random: Random) -> bytes:
    start, end = _spot(body, random, 400)
    return body[:start] + body[end:]


def _repeat(body: bytes, _: Sequence[bytes], random: Random) -> bytes:
    start, end = _spot(body, random, 400)
    return body[:end] + body[start:end] * random.choice((1, 1, 2, 20)) + body[end:]


def _events(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    """Drop, repeat or swap complete events, or insert one from another input."""
    blocks = split_events(body)
    other = split_events(random.choice(corpus))
    for _each in range(random.randint(1, 3)):
        at = random.randint(0, len(blocks))
        kind = random.randrange(4)
        if kind == 0:
            del blocks[at : at + random.randint(1, 3)]
        elif kind == 1 and other:
            blocks.insert(at, random.choice(other))
        elif kind == 2 and blocks:
            blocks.insert(at, random.choice(blocks))
        else:
            random.shuffle(blocks)
    return b"".join(blocks)


def _splice(body: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    other = random.choice(corpus)
    return body[: random.randint(0, len(body))] + other[random.randint(0, len(other)) :]


def _line_ends(body: bytes, _: Sequence[bytes], random: Random) -> bytes:
    return body.replace(b"\n", random.choice((b"\r\n", b"\r", b"\n")))


_CHANGES = (_word, _value, _value, _of_call, _bits, _cut, _repeat, _events, _events, _splice, _line_ends)
