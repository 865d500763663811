"""Hostile whole replies: structure, vectors, conversions between base64 and numbers."""

import contextlib
import json
import time
from array import array
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.dialects.reply_check import ReceivedReply, classify_document, classify_error
from gatepass.errors import GatepassError, UpstreamInvalid
from gatepass.json_body import ONE_PASS_BYTES
from gatepass.normalize.embeddings_reply import VECTOR_BYTES, join_replies, next_step
from gatepass.observability.redaction import Redactor
from gatepass.protocols.chat import CHAT
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.responses import RESPONSES, synthesize_response
from gatepass.proxy import response
from gatepass.proxy.body_threads import is_heavy
from gatepass.proxy.upstream_call import ERROR_BYTES
from gatepass.sse.chunk import MAX_ENTRIES, EnvelopeDefaults
from gatepass.sse.event import LARGE_EVENT_BYTES, read_json
from gatepass.sse.repair import synthesize_stream
from gatepass.sse.whole_reply import read_good, repair_reply
from gatepass.types import EmbeddingsOptions
from tests.attacks import generated
from tests.attacks.conftest import Attack

MIB = 1 << 20
JSON = ((b"content-type", b"application/json"),)
OPENING = b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
OPENING += b'"message":{"role":"assistant","content":"hi"}}],"x":'


HTML = ((b"content-type", b"text/html"),)
MARKUP = (
    *(
        "<",
        "<a ",
        "<a>",
        "<p>",
        "<a '",
        "<a \"'>",
        "<!--",
        "<!-- >",
        "<script>",
        "<script></script>",
        "<head>",
        "<form>",
    ),
    *("<p hidden>", "<p style=style=style=>", "<title>", "&amp;", "&#38;amp;", "x", "x ", "a.", "a/", "a?b ", "1", "-"),
)
FRAMES = (
    "at ",
    " at a",
    "at x(y",
    'File "',
    "a.rb:1:",
    "(a.java:",
    "a(b.java: ",
    " in a",
    "goroutine 1",
    "#0 ",
    "Error",
    "\n/a.go",
)


@pytest.mark.attack("replies: pages and stack traces")
@pytest.mark.parametrize("unit", [*MARKUP, *FRAMES])
@pytest.mark.parametrize("beginning", ["", "<html><body>", "<h1>500</h1><p>"])
def test_no_page_and_no_stack_trace_takes_long(attack: Attack, unit: str, beginning: str) -> None:
    redactor = Redactor()
    redactor.learn("s3cret-token-of-the-upstream")
    text = (beginning + unit * ERROR_BYTES)[:ERROR_BYTES].encode()
    for headers, body in ((HTML, text), (JSON, json.dumps({"error": {"message": text.decode()}}).encode())):
        with attack.on_loop():
            classify_error(ReceivedReply("chat", 500, headers, body, mask=redactor.mask))


@dataclass(frozen=True)
class Body:
    """A chat's reply with a member that repeats `unit` until it has `size_bytes`."""

    unit: bytes
    size_bytes: int
    opening: bytes = b"["

    @property
    def raw(self) -> bytes:
        closing = {b"[": b"]", b"{": b"}", b'"': b'"'}[self.opening]
        comma = b"" if self.opening == b'"' else b","
        count = max(1, self.size_bytes // len(self.unit + comma))
        units = (self.unit + comma) * (count - 1) + self.unit
        return OPENING + self.opening + units + closing + b"}"


def measure_passes(attack: Attack, body: bytes) -> None:
    """Measure each pass over a reply, of the passes that a reply of its size gets."""
    passes: list[Callable[[], object]] = [
        lambda: read_good(body),
        lambda: classify_document(ReceivedReply("chat", 200, JSON, body), CHAT),
    ]
    if not is_heavy(body):  # a heavy one is repaired in the thread for bodies
        passes.append(lambda: repair_reply(body, lambda: EnvelopeDefaults(lambda prefix: f"{prefix}x", 1, "m")))
    if len(body) <= ONE_PASS_BYTES:  # the transform of RAGFlow's replies takes no larger one
        passes.append(lambda: read_json(body))
    for one in passes:
        with attack.on_loop(), contextlib.suppress(ValueError):
            one()


SMALL, LARGEST = 256 * 1024 - 300, 8 * MIB


@pytest.mark.attack("replies: structure")
@pytest.mark.parametrize(
    "body",
    [
        *(
            Body(unit, SMALL)
            for unit in (b"[]", b'{"a":[]}', b"1e300", b'{"text":"a"}', b'""', b"null", b"[" * 60 + b"]" * 60)
        ),
        *(Body(unit, MIB - 300) for unit in (b"NaN,[]", b"NaN", b"{}")),
        *(Body(unit, LARGEST) for unit in (b"[]", b"1", b"1.2345678901234567e-300")),
        *(Body(b'"a":1', LARGEST, b"{"), Body(b"\\u4e2d", LARGEST, b'"'), Body(b"1.5", 3 * MIB)),
    ],
    ids=lambda body: f"{body.size_bytes} {body.unit[:9]!a}",
)
def test_no_pass_over_a_reply_takes_long(attack: Attack, body: Body) -> None:
    attack.cases += 1  # also one that no pass reads
    raw = body.raw
    if not response._is_beyond_checks(raw):
        measure_passes(attack, raw)


ENVELOPE = b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[%b]}'
CALL = b'{"id":"a","type":"function","function":{"name":"","arguments":""}}'
CHOICE = b'{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"a"%b}}'
CALLED = b'{"index":0,"finish_reason":"length","message":{"role":"assistant","tool_calls":[%b]}}'


def repeated(unit: bytes) -> bytes:
    return b",".join([unit] * ((ONE_PASS_BYTES - LARGE_EVENT_BYTES) // (len(unit) + 1)))


@pytest.mark.attack("replies: read in one piece")
@pytest.mark.parametrize(
    "make_choices",
    [
        lambda: repeated(CHOICE % b""),
        lambda: repeated(CALLED % CALL),
        lambda: CALLED % repeated(CALL),
        lambda: CHOICE % (b"," + repeated(b'"content":""')),
        lambda: CHOICE % (b"," + repeated(b'"logprobs":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]')),
    ],
)
def test_no_reply_that_is_read_in_one_piece_takes_long(attack: Attack, make_choices: Callable[[], bytes]) -> None:
    choices = make_choices()
    searched = b'{"x":[%b],' % b",".join([b'{"choices":[{}]}'] * ((LARGE_EVENT_BYTES - 1024) // 17))
    body = searched + (ENVELOPE % choices)[1:]
    assert 2 * LARGE_EVENT_BYTES < len(body) <= ONE_PASS_BYTES
    for one in (body, ENVELOPE % choices):
        with attack.on_loop():
            read_good(one)


def is_refused(document: bytes, surface: ClientProtocol) -> bool:
    """Make a stream of `document`, and return whether that was rejected."""
    origin, is_response = EnvelopeDefaults(lambda prefix: f"{prefix}x", 1, "m"), surface is RESPONSES
    try:
        found = read_json(document)
        for _ in synthesize_response(found, origin, "u") if is_response else synthesize_stream(found, True, origin):
            pass
    except ValueError:
        return True
    return False


def listed(opening: bytes, unit: bytes, closing: bytes, count: int) -> bytes:
    return b"%b%b%b" % (opening, b",".join([unit] * count), closing)


WIDE = {
    "choices": (b'{"choices":[', b'{"message":{"content":"a"}}', b"]}"),
    "calls": (b'{"choices":[{"message":{"tool_calls":[', b"{}", b"]}}]}"),
    "items": (b'{"output":[', b'{"type":"message","content":[{"type":"output_text","text":"a"}]}', b"]}"),
    "parts": (b'{"output":[{"type":"message","content":[', b'{"type":"output_text","text":"a"}', b"]}]}"),
}


@pytest.mark.attack("replies: made into streams")
@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("count", [0, 1, MAX_ENTRIES, MAX_ENTRIES + 1, 3_000, 80_000])
def test_a_stream_is_made_of_a_bounded_number_of_pieces(attack: Attack, kind: str, count: int) -> None:
    surface = RESPONSES if kind in ("items", "parts") else CHAT
    document = listed(*WIDE[kind], min(count, 240 * 1024 // len(WIDE[kind][1])))
    with attack.on_loop():
        is_too_wide = is_refused(document, surface)
    attack.check(is_too_wide or count <= MAX_ENTRIES, (kind, count))


@dataclass(frozen=True)
class Vectors:
    """A reply of `count` vectors of `length` numbers, in base64 or not, to a call that asked for the other."""

    count: int
    length: int
    base64: bool
    wants_base64: bool

    beside: str = ""
    """A member of 62 MiB beside them."""

    @property
    def raw(self) -> bytes:
        numbers = array("f", [0.25, -1.5e-3, 0.125, 7.0] * (self.length // 4 + 1))[: self.length]
        vector = b'"%b"' % b64encode(numbers.tobytes()) if self.base64 else str(numbers.tolist()).encode()
        entries = (b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector) for index in range(self.count))
        beside = b""
        if self.beside == "name":
            beside = b'"%b":1,' % (b"a" * (62 * MIB) + "\U0001f600".encode())
        elif self.beside == "escapes":
            beside = b'"x":"%b",' % (b'\\"' * (31 * MIB))
        return b'{"object":"list",%b"data":[%b],"model":"m"}' % (beside, b",".join(entries))

    @property
    def asked(self) -> EmbeddingsOptions:
        return EmbeddingsOptions(self.count, self.wants_base64)

    def allowed_bytes(self) -> int:
        """The documented formula: four copies of the reply, and three of the vectors that are written."""
        written_bytes = 24 * self.length * self.count if self.base64 else 6 * self.length * self.count
        return 4 * len(self.raw) + 3 * written_bytes + 64 * self.length + 1024 * self.count + MIB


def converted(vectors: Vectors) -> tuple[float, str, int]:
    """Return the longest time of one slice, the code of the error, and the number of bytes written.

    A server joins the pieces in a thread.
    """
    raw, asked = vectors.raw, vectors.asked
    longest_s, made = 0.0, None
    began_s = time.thread_time()
    try:
        steps = join_replies([raw], [vectors.count], asked, "chat", 1 << 40)
        while made is None:
            began_s = time.thread_time()
            made = next_step(steps)
            longest_s = max(longest_s, time.thread_time() - began_s)
    except GatepassError as error:
        return max(longest_s, time.thread_time() - began_s), error.code, 0
    return longest_s, "", len(b"".join(made[0]))


@pytest.mark.attack("replies: vectors")
@generated
@given(st.builds(Vectors, st.integers(1, 32), st.sampled_from([1, 100, 3072, 12_000]), st.booleans(), st.booleans()))
@example(Vectors(256, 3072, base64=True, wants_base64=False))
@example(Vectors(256, 3072, base64=False, wants_base64=True))
@example(Vectors(1, 400_000, base64=False, wants_base64=True))
@example(Vectors(1, 400_000, base64=True, wants_base64=False))
@example(Vectors(20_000, 1, base64=True, wants_base64=False))
def test_vectors_are_converted_in_slices(attack: Attack, vectors: Vectors) -> None:
    longest_s, code, written_bytes = converted(vectors)
    attack.loop_s = max(attack.loop_s, longest_s)
    is_long = len(vectors.raw) > VECTOR_BYTES and vectors.count == 1
    attack.check((code, written_bytes > 0) == (UpstreamInvalid.code if is_long else "", not is_long), vectors)
    if vectors.count * vectors.length <= 200_000:
        with attack.memory(vectors.allowed_bytes()):
            converted(vectors)


@pytest.mark.attack("replies: vectors")
@pytest.mark.parametrize("beside", ["name", "escapes"])
def test_vectors_beside_a_large_member_are_refused_before_it_is_read(attack: Attack, beside: str) -> None:
    attack.loop_s, code, _ = converted(Vectors(1, 100, base64=False, wants_base64=True, beside=beside))
    attack.check(code == UpstreamInvalid.code, beside)
