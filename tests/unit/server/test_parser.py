"""The requests in the bytes of a client, without a connection."""

import gc

import pytest

from gatepass.errors import GatepassError
from gatepass.http_client.message_head import HEAD_BYTES, MOST_FIELDS
from gatepass.server.parser import RequestParser, path_of
from tests.unit.server.cycle_recorder import CycleRecorder
from tests.unit.server.wire_client import asked

LIMIT_BYTES = 1_000_000


def fed(*pieces: bytes) -> tuple[CycleRecorder, RequestParser]:
    recorder = CycleRecorder()
    reader = RequestParser(recorder)
    reader.peer = "192.0.2.7"
    for piece in pieces:
        reader.feed(piece)
    return recorder, reader


def refused(*pieces: bytes) -> tuple[str, str]:
    _, reader = fed(*pieces[:-1])
    with pytest.raises(GatepassError) as caught:
        reader.feed(pieces[-1])
    return caught.value.code, str(caught.value)


REQUESTS = {
    "length": asked(b"hello"),
    "chunks": asked(b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nt: u\r\n\r\n", "Transfer-Encoding: chunked", length=False),
    "absolute": asked(b"hello", line="POST http://h/v1/x?q=1 HTTP/1.1"),
}


@pytest.mark.parametrize("form", REQUESTS)
async def test_a_request_is_the_same_wherever_it_is_split(form: str):
    raw = REQUESTS[form]
    (whole,) = fed(raw)[0].cycles
    for cut in range(len(raw) + 1):
        recorder, reader = fed(raw[:cut], raw[cut:])
        (cycle,) = recorder.cycles
        assert (cycle.method, cycle.path, cycle.target, cycle.version, cycle.headers, cycle.peer, cycle.persists) == (
            *("POST", "/v1/x", whole.target, "1.1", whole.headers, "192.0.2.7", True),
        )
        assert (cycle.is_whole, await cycle.read_body(LIMIT_BYTES)) == (True, b"hello"), cut
        assert (reader.cycle, reader.in_head) == (None, False)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://evil.example/v1/models", b"evil.example"),
        ("HTTPS://user:pass@evil.example:1?x", b"evil.example:1"),
        ("http://[::1]:8080", b"[::1]:8080"),
        ("http://localhost@evil.example/", b"evil.example"),
        ("/http://evil.example/", b"localhost"),
        ("*", b"localhost"),
    ],
)
def test_the_host_of_an_absolute_target_replaces_host(target: str, host: bytes):
    """RFC 9112 section 3.2.2."""
    recorder, _ = fed(f"OPTIONS {target} HTTP/1.1\r\na: 1\r\nHost: localhost\r\nb: 2\r\n\r\n".encode())
    (cycle,) = recorder.cycles
    assert [value for name, value in cycle.headers if name == b"host"] == [host]
    assert {(b"a", b"1"), (b"b", b"2")} < set(cycle.headers)


@pytest.mark.parametrize(
    "target", ["http:///v1/models", "http://user@/v1/models", "http://a%zz/", "http://h:99999/", "http://a@b@x/"]
)
def test_an_invalid_target_is_named_as_the_cause(target: str):
    reason = "This is not a valid HTTP/1.1 request: its target is not a path or a URL."
    assert refused(asked(line=f"GET {target} HTTP/1.1")) == ("invalid_request", reason)


def test_no_bytes_of_a_request_are_kept_after_its_head():
    _, reader = fed(asked(b"hello"))
    assert [held for held in gc.get_referents(reader) if isinstance(held, bytes) and b"HTTP/1.1" in held] == []


OFFER = ("connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__")
OFFERS = {
    "length": asked(b"hello", *OFFER),
    "chunks": asked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", *OFFER, "Transfer-Encoding: chunked", length=False),
}


@pytest.mark.parametrize("before", [b"", asked(b"before")], ids=["first", "second"])
@pytest.mark.parametrize("form", OFFERS)
async def test_an_offer_to_upgrade_is_ignored_and_the_body_kept_wherever_it_is_split(form: str, before: bytes):
    """In the middle of the field's name too, and in any request of a connection."""
    raw = OFFERS[form]
    (whole,) = fed(raw)[0].cycles
    for cut in range(len(raw) + 1):
        recorder, reader = fed(before + raw[:cut], raw[cut:], asked(b"behind"))
        bodies = [await cycle.read_body(LIMIT_BYTES) for cycle in recorder.cycles if cycle.is_whole]
        assert bodies == [b"before", b"hello", b"behind"][0 if before else 1 :], cut
        assert (recorder.cycles[-2].headers, recorder.cycles[-2].persists, reader.cycle) == (whole.headers, True, None)
        assert (b"upgrade", b"h2c") in whole.headers


async def test_offers_sent_ahead_are_all_ignored():
    many = 2_000
    recorder, _ = fed(b"".join(asked(b"%d" % number, *OFFER) for number in range(many)))
    assert [await cycle.read_body(LIMIT_BYTES) for cycle in recorder.cycles] == [
        b"%d" % number for number in range(many)
    ]


def test_invalid_body_after_an_upgrade_offer_is_refused():
    assert refused(asked(b"zz\r\n", *OFFER, "transfer-encoding: chunked", length=False))[0] == "invalid_request"


def test_no_request_follows_one_of_http_1_0_that_asks_for_it():
    recorder, _ = fed(asked(b"", "connection: keep-alive", line="GET / HTTP/1.0"))
    assert [cycle.persists for cycle in recorder.cycles] == [False]


def test_input_after_connection_close_is_ignored():
    recorder, _ = fed(asked(b"1", "connection: close"), asked(b"2"))
    assert len(recorder.cycles) == 1


REFUSED = {
    "garbage": ((b"\0\0\0\r\n\r\n",), "invalid_request", "not a valid HTTP/1.1 request"),
    "TLS": ((b"\x16\x03\x01\x02\x00\x01",), "invalid_request", "base URL with http://"),
    "a method that connects": (
        (b"CONNECT h:1 HTTP/1.1\r\nhost: h\r\n\r\n",),
        "invalid_request",
        "not a valid HTTP/1.1",
    ),
    "two frames": ((asked(b"hello", "transfer-encoding: chunked"),), "invalid_request", "not a valid HTTP/1.1"),
    "many fields": (
        (asked(b"", *(f"x-{number}: y" for number in range(MOST_FIELDS))),),
        *("head_too_large", f"more than {MOST_FIELDS} header fields"),
    ),
    "a large target": (
        (b"GET /", b"x" * HEAD_BYTES, b" HTTP/1.1\r\nhost: h\r\n\r\n"),
        *("head_too_large", f"larger than {HEAD_BYTES} bytes"),
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_invalid_request_is_refused_with_its_reason(form: str):
    pieces, code, text = REFUSED[form]
    found = refused(*pieces)
    assert (found[0], text in found[1]) == (code, True)


def test_a_large_head_in_small_pieces_is_refused_with_the_piece_that_is_too_much():
    raw = b"GET / HTTP/1.1\r\nx: " + b"y" * 2 * HEAD_BYTES
    pieces = [raw[at : at + 8_192] for at in range(0, HEAD_BYTES + 16_384, 8_192)]
    fed(*pieces[:9])  # the first piece is not counted: a body before it may be most of it
    assert refused(*pieces)[0] == "head_too_large"


def test_head_of_the_largest_size_is_accepted():
    field = HEAD_BYTES - len("/v1/x" + "host" + "h" + "x")
    assert len(fed(asked(b"", "x: " + "y" * field))[0].cycles) == 1
    assert refused(asked(b"", "x: " + "y" * (field + 1)))[0] == "head_too_large"


def test_largest_number_of_fields_is_accepted():
    recorder, _ = fed(asked(b"", *(f"x-{number}: y" for number in range(MOST_FIELDS - 1))))
    assert len(recorder.cycles[0].headers) == MOST_FIELDS


def test_head_after_a_large_body_has_the_full_limit():
    recorder, _ = fed(asked(b"x" * 2 * HEAD_BYTES) + asked(b"2"))
    assert len(recorder.cycles) == 2


async def test_blanks_around_a_value_are_not_part_of_it():
    recorder, reader = fed(asked(b"", "X-One:\t Two \t", "Content-Length: 5 \t", length=False))
    assert recorder.cycles[0].headers == ((b"host", b"h"), (b"x-one", b"Two"), (b"content-length", b"5"))
    reader.feed(b"hello")
    assert await recorder.cycles[0].read_body(LIMIT_BYTES) == b"hello"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/v1/x?q=/y", "/v1/x"),
        (b"/v1/x#y", "/v1/x"),
        (b"/v1/%78%2Fy?q=%20", "/v1/x/y"),
        (b"/v1/%C3%A4", "/v1/ä"),
        (b"http://h", "/"),
        (b"*", "*"),
    ],
)
def test_a_target_names_a_path(target: bytes, path: str):
    assert path_of(target) == path
