"""Hostile requests: heads, framing, trailer fields, JSON bodies."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.config.access import hash_key
from gatepass.errors import GatepassError
from gatepass.http_client.message_head import HEAD_BYTES, MOST_FIELDS
from gatepass.json_body import UNCOUNTED_BYTES
from gatepass.protocols.request import read_body
from gatepass.proxy.uploads import Form
from gatepass.server.connection import LEAST_BYTES_PER_S, MOST_AHEAD, RECEIVE_S
from gatepass.server.cycle import HttpRequestCycle
from gatepass.server.parser import RequestParser
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.integration.answers import COMPLETION
from tests.integration.gateway import gateway, relaying
from tests.integration.raw import request, send_raw, status_of
from tests.integration.scripted import Send, reply
from tests.unit.http_client.loop import DrivenLoop, advance, driven, rest
from tests.unit.server.cycle_recorder import CycleRecorder
from tests.unit.server.wire_client import WireClient, asked

READ_BYTES = 256 * 1024
"""The largest piece that asyncio and uvloop read at once."""
OBJECTS_BYTES = 64 * 1024
"""Allowance of the memory formulas for objects whose number does not depend on the input."""

# heads


@dataclass(frozen=True)
class Head:
    """One head, and the status that RFC 9112 asks for; 200: it is served."""

    version: str
    hosts: int
    codings: tuple[str, ...]
    host: str = "h"
    target: str = "/v1/x"

    @property
    def raw(self) -> bytes:
        fields = [*[f"Host: {self.host}"] * self.hosts, *[f"Transfer-Encoding: {coding}" for coding in self.codings]]
        return "\r\n".join([f"POST {self.target} HTTP/{self.version}", *fields, "", ""]).encode("latin-1")

    @property
    def status(self) -> int:
        """The parser stops at a version that it does not know. It reads 0.9 and 2.0, and then the fields."""
        if self.version not in ("0.9", "1.0", "1.1", "2.0"):
            return 505
        if self.hosts and (self.host in BAD_HOSTS or (not self.host and self.target in NAMING_TARGETS)):
            return 400
        if self.codings and [coding.lower() for coding in self.codings] != ["chunked"]:
            return 501
        if self.version not in ("1.0", "1.1"):
            return 505
        is_right = self.hosts == 1 or (self.version == "1.0" and not self.hosts)
        return 200 if is_right else 400


HOSTS = (
    *("h", "H.example:8080", "h:", ":80", "under_score", "10.0.0.1:1", "[::1]:80", "[fe80::1%25eth0]", "[v1.a:b]", ""),
    *("%41.x", "a,b", "x" * 253 + ":65535"),
)
BAD_HOSTS = (
    *(
        "a b",
        "a/b",
        "b/c@d",
        "c@d",
        "a b/c@d",
        "http://h",
        "h?x",
        "h#x",
        "h:80a",
        "h:80:80",
        "[::1",
        "::1",
        "[g]",
        "[]",
    ),
    *("a\\b", "a\tb", "%4", "%zz", "<h>", '"h"', "\xe4", "x" * 301, "a|b", "{h}", "^", "`"),
)
NAMING_TARGETS = ("http://h/v1/x", "http://h:1/v1/x?y")


def status_by_reader(raw: bytes, cut: int) -> int:
    reader = RequestParser(CycleRecorder())
    try:
        reader.feed(raw[:cut])
        reader.feed(raw[cut:])
    except GatepassError as error:
        return error.http_status
    return 200


CODINGS = ("chunked", "Chunked", "gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "")


@pytest.mark.attack("heads: version, Host, Transfer-Encoding")
@pytest.mark.parametrize("version", ["1.1", "1.0", "2.0", "0.9", "1.2", "3.0", "9.9"])
def test_a_head_is_served_or_refused_as_the_rfc_requires(attack: Attack, version: str) -> None:
    for hosts, codings in product(range(4), [(), *product(CODINGS), *product(CODINGS, repeat=2)]):
        head = Head(version, hosts, codings)
        for cut in (0, 20, 60):
            with attack.on_loop():
                status = status_by_reader(head.raw, cut)
            attack.check(status == head.status, (head, cut, status))


@pytest.mark.attack("heads: version, Host, Transfer-Encoding")
def test_each_host_is_accepted_or_refused_as_the_rfc_requires(attack: Attack) -> None:
    first = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    for host, target in product((*HOSTS, *BAD_HOSTS), ("/v1/x", *NAMING_TARGETS)):
        head = Head("1.1", 1, (), host, target)
        attack.check(status_by_reader(head.raw, 0) == head.status, head)
        attack.check(status_by_reader(first + head.raw, len(first)) == head.status, ("second", head))
    empty = b"GET / HTTP/1.1\r\nHost:\r\n\r\n"
    second = Head("1.1", 1, (), "", NAMING_TARGETS[0]).raw
    attack.check((status_by_reader(empty, 0), status_by_reader(empty + second, len(empty))) == (200, 400), "empty")


@pytest.mark.attack("heads: many behind a long one")
@pytest.mark.parametrize("target", [b"/" + b"a" * 60_000, b"http://h/" + b"a" * 60_000])
def test_a_long_request_line_is_not_read_again_for_the_requests_behind_it(attack: Attack, target: bytes) -> None:
    """In one piece of input, which uvloop reads up to 256 KB of."""
    recorder, behind = CycleRecorder(), 5_000
    reader = RequestParser(recorder)
    with attack.on_loop():
        reader.feed(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target + b"GET / HTTP/1.1\r\nHost:h\r\n\r\n" * behind)
    attack.check(len(recorder.cycles) == behind + 1, target[:20])


JSON_BODY = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"


async def test_a_server_refuses_such_a_head_and_closes() -> None:
    heads = [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET http://localhost/healthz HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 403),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (2**64 - 1), 415),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n" + JSON_BODY % (2**64 - 1), 413),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9 \r\n\r\n{", 415),
    ]
    async with gateway(upstream="http://127.0.0.1:9") as served:
        for raw, status in heads:
            answer = await send_raw(served.port, raw)
            assert (status_of(answer), b"connection: close" in answer.lower()) == (status, True), raw


# framing and trailer fields

CHUNKED = asked(b"", "Transfer-Encoding: chunked", length=False)


def fed(raw: bytes, step: int) -> tuple[int, str, HttpRequestCycle | None]:
    """Feed `raw` in pieces of `step` bytes: how much was read, the error's code, and the request."""
    recorder = CycleRecorder()
    reader = RequestParser(recorder)
    reader.feed(CHUNKED)
    recorder.cycles[0]._limit_bytes = 1 << 40  # no task reads the body yet
    for at in range(0, len(raw), step):
        try:
            reader.feed(raw[at : at + step])
        except GatepassError as error:
            return at + step, error.code, recorder.cycles[0]
    return len(raw), "", recorder.cycles[0]


def trailer_fields(count: int, value_bytes: int) -> bytes:
    return b"0\r\n" + b"".join(b"t%d: %b\r\n" % (number, b"v" * value_bytes) for number in range(count))


def trailers_hold(raw: bytes, step: int) -> bool:
    """Refused with the piece that is too much, or small enough."""
    read_bytes, code, _ = fed(raw, step)
    if code:
        return code == "head_too_large"
    fields = raw.count(b": ")
    return read_bytes <= HEAD_BYTES + step and fields + 2 <= MOST_FIELDS


@pytest.mark.attack("trailer fields")
@pytest.mark.parametrize(
    ("count", "value_bytes", "step"),
    [
        *((2_000, size, step) for size in (0, 2_000) for step in (1, 97, 4_096, 65_536, READ_BYTES)),
        *((99, 0, 1), (1, 1_000_000, 100), (90, 700, READ_BYTES), (1, 1_000_000, READ_BYTES), (1_843, 142, READ_BYTES)),
    ],
)
def test_trailer_fields_have_the_bounds_of_a_head(attack: Attack, count: int, value_bytes: int, step: int) -> None:
    raw = trailer_fields(count, value_bytes)[: 16 * HEAD_BYTES if step > 1 else 2 * HEAD_BYTES]
    raw += b"\r\n"  # the parser reports the last field with the bytes after it
    with attack.memory(allowed_bytes=2 * (HEAD_BYTES + READ_BYTES) + OBJECTS_BYTES):
        holds = trailers_hold(raw, step)
    with attack.on_loop():
        fed(raw[:READ_BYTES], READ_BYTES)
    attack.check(holds, (count, value_bytes, step))


async def test_trailer_fields_are_not_relayed_and_the_next_request_is_served() -> None:
    recorder = CycleRecorder()
    reader = RequestParser(recorder)
    reader.feed(CHUNKED + b"2\r\nhi\r\n0\r\nHost: evil\r\nExpect: 100-continue\r\n\r\n" + asked(b"2"))
    assert [cycle.headers for cycle in recorder.cycles] == [
        ((b"host", b"h"), (b"transfer-encoding", b"chunked")),
        ((b"host", b"h"), (b"content-length", b"1")),
    ]
    assert [await cycle.read_body(100) for cycle in recorder.cycles] == [b"hi", b"2"]


@dataclass(frozen=True)
class Chunks:
    """A body of `count` chunks of `size_bytes`, each with an extension."""

    size_bytes: int
    extension_bytes: int
    count: int

    @property
    def raw(self) -> bytes:
        extension = b";" + b"x" * self.extension_bytes if self.extension_bytes else b""
        chunk = b"%x%b\r\n%b\r\n" % (self.size_bytes, extension, b"b" * self.size_bytes)
        return chunk * self.count + b"0\r\n\r\n"

    def allowed_bytes(self) -> int:
        """The documented formula: the body twice, as while its buffer grows, and the buffer's spare eighth."""
        return 2 * self.size_bytes * self.count * 9 // 8 + READ_BYTES + OBJECTS_BYTES


async def whole_body(raw: bytes, step: int) -> bytes | str:
    _, code, cycle = fed(raw, step)
    assert cycle is not None
    return code or await cycle.read_body(1 << 40)


def is_right(chunks: Chunks, found: bytes | str, step: int) -> bool:
    """Its body, or a refusal where the extension of one chunk is larger than a head."""
    if found == "head_too_large":
        return chunks.extension_bytes > HEAD_BYTES - step
    return found == b"b" * (chunks.size_bytes * chunks.count)


@pytest.mark.attack("chunked bodies: tiny chunks, extensions")
@pytest.mark.parametrize(
    ("chunks", "step"),
    [
        *((Chunks(size, 0, 100_000 // size), step) for size in (1, 3, 100, 4_096) for step in (97, 4_096, READ_BYTES)),
        *((Chunks(2, extension, 10), step) for extension in (50, 3 * HEAD_BYTES) for step in (97, READ_BYTES)),
        (Chunks(2, 0, 200_000), READ_BYTES),
        (Chunks(1, 1, 50_000), READ_BYTES),
        (Chunks(1, 10 * HEAD_BYTES, 1), 4_096),
    ],
)
def test_a_chunked_body_takes_memory_by_its_bytes(attack: Attack, chunks: Chunks, step: int) -> None:
    raw = chunks.raw
    with attack.on_loop():
        fed(raw[:READ_BYTES], READ_BYTES)
    with attack.memory(chunks.allowed_bytes()):
        found = asyncio.run(whole_body(raw, step))
    attack.check(is_right(chunks, found, step), (chunks, step))


# JSON bodies

MIB = 1 << 20


@dataclass(frozen=True)
class Json:
    """A body that repeats `unit` in the member `name` until it has `size_bytes`."""

    name: str
    unit: str
    size_bytes: int
    opening: str = "["

    @property
    def raw(self) -> bytes:
        comma = "" if self.opening in ('"', "") else ","
        closing = {"[": b"]", "{": b"}", '"': b'"', "": b""}[self.opening]
        unit = (self.unit + comma).encode()
        units = (unit * (self.size_bytes // len(unit))).removesuffix(comma.encode())
        return b'{"model":"m","%b":%b%b%b}' % (self.name.encode(), self.opening.encode(), units, closing)


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


VALUE = msgspec.json.Decoder(msgspec.Raw)
FACTOR, SPARE_S = 3, 0.005
"""What a body costs at most: so many times what msgspec needs for it, and so much more."""


def cost_of(body: bytes) -> tuple[float, float, str]:
    """Return the CPU time to read a body and its members, the most that it may take, and the code of the error."""
    began_s, code = time.thread_time(), ""
    VALUE.decode(body)
    msgspec_s, began_s = time.thread_time() - began_s, time.thread_time()
    try:
        read_body(body)
    except GatepassError as error:
        code = error.code
    return time.thread_time() - began_s, FACTOR * msgspec_s + SPARE_S, code


@pytest.mark.attack("JSON bodies: structure")
@pytest.mark.parametrize(
    "body",
    [
        *(Json("x", unit, 2 * MIB) for unit in ("[]", "{}", "-0.5e1", "null", "  1  ", '["a",{"b":[1]}]', deep(60))),
        *(Json("messages", unit, 2 * MIB) for unit in ('{"role":"user","content":"hi"}', '"\\u4e2d\\n\\""')),
        *(Json("x", unit, 2 * MIB, '"') for unit in ('\\"', "\\u0041", "é")),
        Json("x", "1", 2 * MIB),
        Json("x", '"a":""', 2 * MIB, "{"),
        Json("x", "1", 2 * MIB, ""),
        *(Json("x", unit, 31 * MIB) for unit in ("1", deep(60))),
        Json("messages", '{"role":"user","content":"%s"}' % ("a b" * 30), 14 * MIB),
    ],
    ids=lambda body: f"{body.name} {body.unit[:9]!a}",
)
def test_a_large_body_costs_little_more_than_msgspec(attack: Attack, body: Json) -> None:
    raw = body.raw
    took_s, allowed_s, code = min(cost_of(raw) for _ in range(3))
    attack.check(took_s < 3 * allowed_s, (body.name, body.unit[:20], took_s, allowed_s))  # `make bench-bodies` is exact
    attack.check(code in ("", "body_too_complex"), (body.name, body.unit[:20], code))


@pytest.mark.attack("JSON bodies: structure")
@pytest.mark.parametrize("unit", ["[]", "1", '"\\n"', '{"a":1}', deep(60), '"%s"' % ("\\n" * 600)])
def test_a_large_body_takes_little_memory(attack: Attack, unit: str) -> None:
    raw = Json("messages", unit, 2 * UNCOUNTED_BYTES).raw
    with attack.memory(
        24 * len(raw)
    ):  # a value of a list takes 64 bytes and at least three of the body, and few are opened
        cost_of(raw)


@pytest.mark.attack("reads of tiny parts: a server")
@pytest.mark.parametrize(
    ("raw", "replies"),
    [
        (request(b"1\r\n \r\n" * 85_000 + b"0\r\n\r\n", [("transfer-encoding", "chunked")]), 1),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 7_000, MOST_AHEAD + 1),
    ],
    ids=["chunks", "pipelined requests"],
)
async def test_server_serves_others_while_it_reads_tiny_parts(attack: Attack, raw: bytes, replies: int) -> None:
    """Of many connections: a read of 256 KiB has 40,000 chunks or 10,000 requests."""
    async with relaying(answer=lambda _: [Send(reply(COMPLETION))]) as (_, served), attack.on_this_loop():
        answers = await asyncio.gather(*(send_raw(served.port, *pieces_of(raw)) for _ in range(32)))
    for answer in answers:
        attack.check(answer.count(b"HTTP/1.1 ") == replies, answer[:300])


@pytest.mark.attack("JSON bodies: a server")
async def test_server_serves_others_while_it_reads_large_bodies(attack: Attack) -> None:
    served = [
        Json("x", deep(60), 2 * MIB),
        Json("x", "1", 2 * MIB),
        Json("x", '\\"', 2 * MIB, '"'),
        Json("messages", '{"role":"user","content":"Hello, \\"world\\".\\n"}', 12 * MIB),
        Json("messages", '\n    {\n      "role": "user",\n      "content": "Hello"\n    }', 5 * MIB),
    ]
    await serve_all(attack, [(Json("x", '\\"', 31 * MIB, '"').raw, 413)])
    await serve_all(attack, [(Json("x", "[]", 2 * MIB).raw[:-1], 400)])  # without its end
    await serve_all(attack, ((body.raw, 200) for body in served))


async def serve_all(attack: Attack, bodies: Iterable[tuple[bytes, int]]) -> None:
    """Send each body, and expect the status next to it. Only one of the bodies is in memory."""
    async with relaying(answer=lambda _: [Send(reply(COMPLETION))]) as (upstream, served):
        for raw, status in bodies:
            async with attack.on_this_loop():
                answer = await send_raw(served.port, *pieces_of(request(raw)))
            attack.check(status_of(answer) == status, (raw[:40], answer[:300]))
            assert [received.body for received in upstream.received] == [raw] * (status == 200)
            upstream.received.clear()


def pieces_of(raw: bytes) -> list[bytes]:
    return [raw[at : at + READ_BYTES] for at in range(0, len(raw), READ_BYTES)]


# forms of many parts

LIMITED_KEY = "k" * 40
PART_NAMES = {
    "brackets": "[" * 15_000,
    "steps": ".".join(map(str, range(3_000))),
    "underscores": "_-" * 7_500,
    "short": "a",
}


@pytest.mark.attack("forms: names of parts")
@pytest.mark.parametrize("name", PART_NAMES.values(), ids=PART_NAMES)
async def test_the_names_of_parts_do_not_occupy_the_loop(attack: Attack, name: str) -> None:
    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\nm\r\n'
    form = (part.format(name) * (2_000_000 // len(part.format(name))) + part.format("model") + "--b--\r\n").encode()
    fields = (("content-type", "multipart/form-data; boundary=b"), ("authorization", f"Bearer {LIMITED_KEY}"))
    keys = [{"name": "limited", "models": ["m"], "hash": hash_key(LIMITED_KEY)}]
    async with (
        relaying(answer=lambda _: [Send(reply({"text": "a"}))], access={"keys": keys}) as (_, served),
        attack.on_this_loop(),
    ):
        raw = request(form, fields, target="/v1/audio/transcriptions")
        response = await send_raw(served.port, *pieces_of(raw))
    attack.check(status_of(response) == 200, response)


@pytest.mark.attack("forms: what is like a boundary")
@pytest.mark.parametrize("like", [b"-", b"--", b"\r\n--", b"a", b"--aaaaaaaaaa", b"aaaaaaaaaac"])
async def test_bytes_like_a_boundary_do_not_occupy_the_loop(attack: Attack, like: bytes) -> None:
    boundary = b"aaaaaaaaaab"
    head = b'--%b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' % boundary
    async with attack.on_this_loop():
        form = await Form.read(b"%b%b\r\n--%b--" % (head, like * (16_000_000 // len(like)), boundary), boundary)
    attack.check(form.model is None, like)


# slow senders

Sends = list[tuple[int, float]]
"""Bytes of a body, and the seconds before them."""
BODY_BYTES = 1 << 20


async def is_late(sends: Sends) -> tuple[bool, bool]:
    """Return whether the body was rejected, and whether it must be: after a pause, or below the least rate in total."""
    failed: list[str] = []

    async def take_all(cycle: HttpRequestCycle) -> None:
        try:
            await cycle.read_body(BODY_BYTES)
        except GatepassError as error:
            failed.append(error.code)
            cycle.start(error.http_status, [], 0)
            await cycle.write(b"", last=True)

    wire_client = WireClient(take_all)
    since_s = last_s = driven().time()
    wire_client.send(asked(bytes(BODY_BYTES))[:-BODY_BYTES])
    await rest()
    size_bytes = 0
    for count, pause_s in sends:
        allowed_s = min(last_s, since_s + size_bytes / LEAST_BYTES_PER_S) + RECEIVE_S
        await advance(pause_s)
        if driven().time() >= allowed_s or failed:
            return bool(failed), driven().time() >= allowed_s
        wire_client.send(bytes(count))
        await rest()
        size_bytes, last_s = size_bytes + count, driven().time()
        since_s = min(since_s, last_s + RECEIVE_S - size_bytes / LEAST_BYTES_PER_S)  # at most RECEIVE_S ahead
    return bool(failed), False


def in_driven_time(sends: Sends) -> tuple[bool, bool]:
    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        return runner.run(is_late(sends))


@pytest.mark.attack("slow senders of bodies")
@generated
@given(
    sends=st.lists(st.tuples(st.sampled_from([1, 100, 5_000, 30_000]), st.sampled_from([0.5, 3.3, 9.7, 19.1, 20.5])))
)
@example(sends=[(1, 19.1)] * 5)
@example(sends=[(20_000, 19.1)] * 20)
@example(sends=[(30_000, 0.5), *[(1, 19.1)] * 5])
# 10 KiB are worth 10 s, every 12 s: 59.9 s of 20 s and 40 KiB
@example(sends=[*[(10_240, 12.0)] * 4, (1, 11.9)])
@example(sends=[*[(10_240, 12.0)] * 4, (1, 12.1)])
# a caller would hold its share of memory for hours: 900 KiB at once are worth 15 minutes of single bytes
@example(sends=[(921_600, 0.0), *[(1, 15.0)] * 2, (1, 9.9)])
@example(sends=[(921_600, 0.0), *[(1, 15.0)] * 2, (1, 10.1)])
@example(sends=[(921_600, 0.0), (1, 20.1)])
def test_a_body_is_refused_exactly_when_it_is_late(attack: Attack, sends: Sends) -> None:
    given_up, is_due = in_driven_time(sends)
    attack.check(given_up == is_due, sends)
