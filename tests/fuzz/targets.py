"""What is fuzzed: bytes go in, and whatever they are, promises hold. A broken one is an AssertionError."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from random import Random
from typing import Any

from gatepass.errors import GatepassError
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.choice_repair import NAMES, RepairOptions
from gatepass.sse.event import Framer, read_json, split_events
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair
from gatepass.sse.synthesize import synthesize_stream
from tests.fuzz import parsers
from tests.fuzz.mutation import VALUES, WORDS
from tests.fuzz.pieces import pieces
from tests.unit.sse.documents import origin
from tests.unit.sse.repair_streams import FedRepair
from tests.unit.sse.streams import DONE, read_error

LIMIT_BYTES = 1 << 16
SOAKED_BYTES = 1 << 20
KEPT_BYTES = 1 << 22
"""The most that a repair may hold after `SOAKED_BYTES` of anything."""

WISHES = (
    RepairOptions(include_usage=True),
    RepairOptions(include_usage=False, without_choices="drop", splits_finish=True),
    RepairOptions(include_usage=None, without_choices="keep", one_id=True),
    RepairOptions(include_usage=True, cumulative=True, splits_finish=True),
)

_LEFT_COMMENTS = re.compile(rb"(?:(?<![^\r\n]):[^\r\n]*(?:\r\n?|\n))+\Z")

Target = Callable[[bytes, Random], None]


def validated_repaired_and_aggregated(body: bytes, random: Random) -> None:
    """A stream is validated, repaired and aggregated, in pieces of random sizes."""
    repair = StreamRepair(random.choice(WISHES), origin())
    stream = EventStream("chat", LIMIT_BYTES, read_error, repair=repair)
    aggregator = CompletionAggregator("chat", LIMIT_BYTES, read_error, origin())
    out = b""
    for piece in pieces(body, random):
        shaped = stream.feed(piece)
        aggregator.feed(shaped)
        out += shaped
    shaped = stream.finish()
    aggregator.feed(shaped)
    _are_whole(out + shaped)
    assert set(repair.adapted) <= set(NAMES)
    assert stream.done or DONE not in split_events(out + shaped)
    _finish(aggregator, may_fail=stream.failure is not None or not stream.done or _is_no_text(out))


def repaired_alike(body: bytes, random: Random) -> None:
    """A repaired stream has the same bytes whatever runs its events come in, and nothing of a clean event changes."""
    blocks = split_events(Framer(LIMIT_BYTES).feed(body))
    options = random.choice(WISHES)
    one, other = (
        EventStream("chat", LIMIT_BYTES, read_error, repair=StreamRepair(options, origin())) for _ in range(2)
    )
    single = b"".join([*map(one.feed, blocks), one.finish()])
    merged = b"".join([*map(other.feed, _runs(blocks, random)), other.finish()])
    # blank lines aside: the framer holds back a CR at the end of a run, which could be half of a CR LF
    assert merged.split() == single.split()
    assert (one.adapted, str(one.failure)) == (other.adapted, str(other.failure))
    comments_overtake = options.cumulative
    clean = b"".join(blocks)
    # of an event that is an error only its comments are relayed
    is_kept = clean.startswith(single) or (one.failure is not None and _ends_with_comments(single, blocks))
    assert one.adapted or comments_overtake or is_kept
    assert one.finish() == b""
    _are_whole(single)


def _ends_with_comments(relayed: bytes, blocks: list[bytes]) -> bool:
    """Whether `relayed` is some of the first blocks, and then only comments."""
    at = 0
    for block in blocks:
        if not relayed.startswith(block, at):
            break
        at += len(block)
    return all(line.startswith(b":") for line in relayed[at:].splitlines() if line)


def joined_alike(body: bytes, random: Random) -> None:
    """An aggregation gives the same reply, or the same error, whatever runs its events come in."""
    blocks = split_events(Framer(LIMIT_BYTES).feed(body))
    one, other = (CompletionAggregator("chat", LIMIT_BYTES, read_error, origin()) for _ in range(2))
    for block in blocks:
        one.feed(block)
    for run in _runs(blocks, random):
        other.feed(run)
    assert _outcome(one) == _outcome(other)


def synthesised(body: bytes, random: Random) -> None:
    """Any document makes a stream of whole events, and that stream makes a reply again."""
    try:
        document = read_json(body)
    except ValueError:
        return
    if not isinstance(document, dict):
        return
    try:
        blocks = list(synthesize_stream(document, random.random() < 0.5, origin(), random.choice([1, 7, 1 << 17])))
    except ValueError:  # nested too deep
        return
    assert blocks[-1] == DONE
    _are_whole(b"".join(blocks))
    aggregator = CompletionAggregator("chat", 1 << 26, read_error, origin())
    for block in blocks:
        aggregator.feed(block)
    has_choices = len(blocks) > 2
    _finish(aggregator, may_fail=not has_choices or aggregator.failure is not None)
    assert has_choices is False or aggregator.failure is None or "error" in document


def soaked(body: bytes, random: Random) -> None:
    """What a repair holds does not grow with what it was fed."""
    run = Framer(LIMIT_BYTES).feed(body)
    repair = FedRepair(random.choice(WISHES), origin())
    for number in range(SOAKED_BYTES // len(run) if run else 0):
        repair.feed(run.replace(b"call_", b"c%d_" % number).replace(b'"index":0', b'"index":%d' % number))
    assert kept_bytes(repair) < KEPT_BYTES


@dataclass(frozen=True, slots=True)
class Family:
    """Targets that share the corpus in `corpus/NAME`. Each has its share of the runs, the family one of a campaign.

    `traced` is the part of gatepass whose branches guide the campaign. `words` are put into the inputs.
    """

    targets: tuple[tuple[Target, int], ...]
    share: int
    traced: str
    words: tuple[bytes, ...]


_REQUEST_WORDS = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b"\xff", b":", b",", b"0\r\n\r\n", b"5\r\nhello\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"content-length: -1\r\n"),
    *(
        b"Host: h\r\n",
        b"Connection: close\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"GET / HTTP/1.1\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
    ),
    *(
        b"chunked, chunked",
        b"gzip, chunked",
        b"99999999999999999999",
        b"0x5",
        b"5;x=y",
        b"%00",
        b"/../",
        b" folded\r\n",
    ),
)
_BODY_WORDS = (
    *(
        *VALUES,
        b'"model":"m",',
        b'"Model":"x",',
        b'"stream":true,',
        b'"n":2,',
        b'"messages":[]',
        b"\\",
        b'\\"',
        b"\\u0000",
    ),
    *(
        b",",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b" ",
        b"\n",
        b"\t",
        b"\\ud83d",
        b"\\ud83d\\ude00",
        b"\xc3\xa9",
        b"\xff",
        b"[" * 40,
    ),
    *(
        b'"a":' + b"1" * 50 + b",",
        b'"' + b"x" * 60 + b'",',
        b"1,2,3,4,5,6,7,8,9," * 5,
        b"\xef\xbb\xbf",
        b'"mod\\u0065l":"z",',
    ),
)
_FORM_WORDS = (
    *(
        b"\r\n",
        b"\n",
        b"--b-1",
        b"--b-1--",
        b"--b-1\r\n",
        b'name="model"',
        b"name=model",
        b"name='model'",
        b"name*=utf-8''model",
    ),
    *(b"Content-Disposition: form-data; ", b'; filename="a"', b"; filename*=utf-8''a", b"Content-Type: text/plain\r\n"),
    *(
        b"Content-Transfer-Encoding: base64\r\n",
        b'\\"',
        b"\0",
        b"\xff",
        b"\t",
        b";",
        b"--",
        b"boundary=",
        b"multipart/form-data; ",
    ),
)
_TOKEN_WORDS = (
    *(
        *VALUES,
        b'"access_token":"abc",',
        b'"expires_in":300,',
        b'"expires_in":"300s"',
        b'"expires_in":-1',
        b'"expires_in":1e400',
    ),
    *(
        b'"expires_at":"2027-01-15T08:00:00Z"',
        b'"expires_at":1800000300',
        b'"expires_at":1800000300000',
        b'"data":{"token":"x"}',
    ),
    *(
        b'"token_type":"mac",',
        b'"code":0,',
        b'"success":false,',
        b'"error":"invalid_client",',
        b"<html>",
        b"Bearer ",
        b"\\r\\n",
    ),
    *(
        b"text/html",
        b"application/json",
        b"401 ",
        b"200 ",
        b"500 ",
        b".eyJleHAiOjE4MDAwMDAzMDB9.",
        b"\xef\xbb\xbf",
        b"\xff",
    ),
)
_CONFIG_WORDS = (
    *(
        b"upstreams:",
        b"credentials:",
        b"chat:",
        b"base_url: https://h/v1",
        b"type: oauth2",
        b"token_url: https://s/t",
        b"- ",
    ),
    *(
        b"\n  ",
        b"\n    ",
        b"\n",
        b": ",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"!!int ",
        b"|",
        b">",
        b"'",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"#",
    ),
    *(
        b"null",
        b"~",
        b"true",
        b"yes",
        b"0x1f",
        b"0o7",
        b"1e3",
        b".inf",
        b"-0",
        b"1_000",
        b"2001-01-01",
        b"\t",
        b"\0",
        b"\xff",
        b"---",
    ),
    *(
        b"${LLM_KEY}",
        b"${NOPE}",
        b"$$",
        b"${",
        b"GATEPASS_UPSTREAM_URL=",
        b"GATEPASS_TOKEN_URL=",
        b"GATEPASS_PORT=",
        b"=",
    ),
    *(
        b"server: {port: 99999}",
        b"access: {keys: [{name: a, key: '${LLM_KEY}'}]}",
        b"limits: {connections: 0}",
        b"9" * 400,
    ),
)

FAMILIES: Mapping[str, Family] = {
    "stream": Family(
        (
            (validated_repaired_and_aggregated, 8),
            (repaired_alike, 6),
            (joined_alike, 4),
            (synthesised, 3),
            (soaked, 0),
        ),
        14,
        "gatepass/sse",
        WORDS,
    ),
    "framing": Family(((parsers.framed_alike, 1),), 4, "gatepass/sse/event", WORDS),
    "head": Family(((parsers.head_read_alike, 1),), 4, "gatepass/server", _REQUEST_WORDS),
    "body": Family(((parsers.body_scanned_alike, 1),), 4, "gatepass/proxy/large_body", _BODY_WORDS),
    "form": Family(((parsers.form_scanned_alike, 1),), 2, "gatepass/proxy/uploads", _FORM_WORDS),
    "token": Family(((parsers.token_read_alike, 1),), 4, "gatepass/tokens", _TOKEN_WORDS),
    "config": Family(((parsers.config_loaded, 1),), 1, "gatepass/config", _CONFIG_WORDS),
}
"""`soaked` takes a second and runs once in a thousand."""


def _runs(blocks: list[bytes], random: Random) -> Iterator[bytes]:
    at = 0
    while at < len(blocks):
        size = random.randint(1, 5)
        yield b"".join(blocks[at : at + size])
        at += size


def _are_whole(stream: bytes) -> None:
    """Whole events, and behind them comment lines that the validation left of another."""
    whole = _LEFT_COMMENTS.sub(b"", stream)
    assert b"".join(split_events(whole)) == whole, "what goes on is whole events"


def _is_no_text(out: bytes) -> bool:
    """Whether there are bytes in it that no JSON text may hold. The validation lets them pass inside the text of an
    event that it knows by heart."""
    try:
        out.decode()
    except UnicodeDecodeError:
        return True
    return re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]", out) is not None


def _finish(aggregator: CompletionAggregator, *, may_fail: bool) -> None:
    try:
        reply = read_json(aggregator.finish())
    except GatepassError:
        assert may_fail
        return
    assert reply["choices"]
    assert all(isinstance(choice["finish_reason"], str) for choice in reply["choices"])


def _outcome(aggregator: CompletionAggregator) -> Any:
    try:
        return aggregator.finish()
    except GatepassError as error:
        return error.public_code, error.message


def kept_bytes(root: object) -> int:
    """The memory of everything that can be reached from `root`, as far as it holds data."""
    seen: set[int] = set()
    waiting, total = [root], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or callable(one) or isinstance(one, type):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        waiting += _inside(one)
    return total


def _inside(one: Any) -> list[Any]:
    if isinstance(one, dict):
        return [*one.keys(), *one.values()]
    if isinstance(one, list | tuple | set | frozenset):
        return list(one)
    if is_dataclass(one):
        return [getattr(one, field.name) for field in fields(one)]
    names = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    return [getattr(one, name) for name in names if hasattr(one, name)] + list(getattr(one, "__dict__", {}).values())
