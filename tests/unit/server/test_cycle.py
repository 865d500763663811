"""A request and its response on the wire: the id, the body, the head, the framing."""

import socket
from itertools import product

import pytest

from gatepass.errors import GatepassError
from gatepass.http_client.connection import JOINED_BYTES
from gatepass.protocols.error_objects import REPLAYED
from gatepass.server.cycle import HttpRequestCycle, RequestIds, header_lines, ids_begin
from tests.unit.http_client.loop import rest
from tests.unit.server.wire_client import DATE, WireClient, asked

LIMIT_BYTES = 10
HEAD = b"HTTP/1.1 200 OK\r\ndate: " + DATE + b"\r\n"


class Reader:
    """Reads the body of each request within LIMIT_BYTES, then answers with nothing."""

    def __init__(self) -> None:
        self.read: list[bytes | str] = []

    async def __call__(self, cycle: HttpRequestCycle) -> None:
        try:
            self.read.append(await cycle.read_body(LIMIT_BYTES))
        except GatepassError as error:
            self.read.append(error.code)
        cycle.start(200, [], 0)
        await cycle.write(b"", last=True)


async def read(*pieces: bytes) -> tuple[list[bytes | str], bytes]:
    reader = Reader()
    wire_client = WireClient(reader)
    for piece in pieces:
        wire_client.send(piece)
        await rest()
    return reader.read, wire_client.received


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ((asked(b"0123456789"),), b"0123456789"),
        ((asked(b"0123456789")[:-5], b"56789"), b"0123456789"),
        ((asked(),), b""),
        ((asked(b"0123456789a")[:-11],), "body_too_large"),
        ((asked(b"", "transfer-encoding: chunked"), b"6\r\n012345\r\n", b"6\r\n012345\r\n"), "body_too_large"),
        ((asked(b"", "transfer-encoding: chunked") + b"6\r\n012345\r\n", b"0\r\n\r\n"), b"012345"),
    ],
)
async def test_a_body_is_read_within_its_limit(pieces, body):
    found, _ = await read(*pieces)
    assert found == [body]


async def test_a_client_that_expects_gets_100_continue_when_its_body_is_wanted():
    raw = asked(b"hello", "expect: 100-Continue")
    found, received = await read(raw[:-5], raw[-5:])
    assert (found, received) == ([b"hello"], b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: 0\r\n\r\n")
    _, refused = await read(asked(b"0123456789a", "expect: 100-continue")[:-11])
    assert b"100 Continue" not in refused


async def test_unread_body_without_100_continue_closes_the_connection():
    """It is unknown whether the client sends the body, so the next bytes could be the body or the next request."""
    wire_client = WireClient(answer_with(b"no", length_bytes=2))
    raw = asked(b"hello", "expect: 100-continue")
    wire_client.send(raw[:-5])
    await rest()
    assert wire_client.received == HEAD + b"content-length: 2\r\nconnection: close\r\n\r\nno"
    wire_client.send(asked(b"1"))
    await rest()
    assert len(wire_client.cycles) == 1


def answer_with(*pieces: bytes, status: int = 200, length_bytes: int | None = None):
    async def answer(cycle: HttpRequestCycle) -> None:
        cycle.start(status, [], length_bytes)
        for piece in pieces[:-1]:
            await cycle.write(piece)
        await cycle.write(pieces[-1], last=True)

    return answer


GET, OLD, HEAD_LINE = "GET / HTTP/1.1", "GET / HTTP/1.0", "HEAD / HTTP/1.1"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
FRAMES = {
    "a length": (GET, answer_with(b"a", b"b", length_bytes=2), HEAD + b"content-length: 2\r\n\r\nab"),
    "chunks": (GET, answer_with(b"a", b"", b"bc"), HEAD + CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
    "to HTTP/1.0": (OLD, answer_with(b"a", b"b"), HEAD + b"connection: close\r\n\r\nab"),
    "to HEAD": (HEAD_LINE, answer_with(b"ab", length_bytes=2), HEAD + b"content-length: 2\r\n\r\n"),
    "chunks to HEAD": (HEAD_LINE, answer_with(b"ab", b"c"), HEAD + CHUNKED),
    "no content": (
        GET,
        answer_with(b"", status=204),
        b"HTTP/1.1 204 No Content\r\ndate: " + DATE + b"\r\n\r\n",
    ),
    "a status without a name": (
        GET,
        answer_with(b"", status=599, length_bytes=0),
        b"HTTP/1.1 599 \r\ndate: " + DATE + b"\r\ncontent-length: 0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("form", FRAMES)
async def test_a_response_shows_its_end_as_the_request_can_read_it(form: str):
    line, answer, expected = FRAMES[form]
    wire_client = WireClient(answer)
    wire_client.send(asked(line=line))
    await rest()
    assert wire_client.received == expected
    assert wire_client.transport.closing == (line == OLD)


@pytest.mark.parametrize("line", [GET, OLD, HEAD_LINE])
async def test_pieces_of_every_size_are_framed_alike_written_or_offered(line: str):
    for sizes in product((0, 1, JOINED_BYTES, JOINED_BYTES + 1), repeat=3):
        pieces = [letter * size for letter, size in zip((b"a", b"b", b"c"), sizes, strict=True)]

        async def answer(cycle: HttpRequestCycle, pieces: list[bytes] = pieces) -> None:
            cycle.start(200, [])
            await cycle.write(pieces[0])
            assert cycle.try_write(pieces[1])
            await cycle.write(pieces[2], last=True)

        wire_client = WireClient(answer)
        wire_client.send(asked(line=line))
        await rest()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
        bodies = {GET: chunks + b"0\r\n\r\n", OLD: b"".join(pieces), HEAD_LINE: b""}
        assert wire_client.received.partition(b"\r\n\r\n")[2] == bodies[line]


@pytest.mark.parametrize("broken", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b"])
def test_no_field_of_a_response_can_end_its_own_line(broken: bytes):
    with pytest.raises(ValueError, match="line break"):
        header_lines([(b"x", broken)])
    with pytest.raises(ValueError, match="line break"):
        header_lines([(b"x" + broken, b"y")])


async def test_cancelled_while_it_waits_for_a_body_a_handler_leaves_the_connection_in_order():
    wire_client = WireClient(Reader())
    wire_client.send(asked(b"hello")[:-1])
    await rest()
    (task,) = wire_client.state.tasks
    task.cancel()
    await rest()
    wire_client.send(b"o")
    assert wire_client.received.startswith(b"HTTP/1.1 500")
    assert wire_client.transport.ended


def test_ids_are_unique_in_a_process_and_differ_between_processes():
    first, second = RequestIds(), RequestIds()
    ids = [ids.of(None) for ids in (first, second) for _ in range(1_000)]
    assert len(set(ids)) == len(ids)
    assert {len(one) for one in ids} == {24}
    assert ids[0][:16] != ids[-1][:16]
    assert {one[:4] for one in ids} == {ids_begin(socket.gethostname())}
    assert len({ids_begin(f"gatepass-{number}") for number in range(10)}) == 10


def test_no_id_has_a_digit_or_a_word_for_which_ragflow_repeats_a_request():
    ids = RequestIds()
    assert not any(REPLAYED.search(ids.of(None)) for _ in range(0x600))
    assert ids.of(None).isalpha()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"req_0123", "req_0123"),
        (b"a.b:c-1", "a.b:c-1"),
        (b"a b", None),
        (b"", None),
        (b"x" * 129, None),
        (b"\xff", None),
    ],
)
def test_clients_own_id_is_used_if_it_is_a_plain_word(given, kept):
    name = RequestIds().of(given)
    assert name == kept if kept is not None else name.endswith("bbbbbbbc")
