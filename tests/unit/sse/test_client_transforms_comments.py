"""Comments left out of a stream, for the clients that lose events by them."""

import pytest

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, Profile
from gatepass.protocols.chat import CHAT
from gatepass.protocols.responses import RESPONSES
from gatepass.sse.client_transforms import WithoutComments, make_client_transform
from gatepass.sse.event import Framer, split_events
from tests.unit.sse.streams import REALISTIC, client_reads, new_stream, pieces, state, with_line_ends

FIRST, SECOND = REALISTIC[0], REALISTIC[2]
LINE = b": OPENROUTER PROCESSING\n"


def transformed(*runs: bytes) -> bytes:
    transform = WithoutComments()
    return b"".join([*map(transform.feed, runs), transform.finish()])


def dify_reads(stream: bytes) -> list[bytes]:
    """The data that Dify's plugin takes out of a stream (dify-plugin-sdks, openai_compatible/llm.py): it cuts at blank
    lines and throws away each piece that begins with a colon."""
    cut = [piece.strip() for piece in stream.split(b"\n\n")]
    return [piece.removeprefix(b"data:").lstrip() for piece in cut if piece and not piece.startswith(b":")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (LINE + b"\n", b""),
        (LINE * 2 + b"\n" + LINE + b"\n", b""),
        (LINE, b""),
        (FIRST + LINE, FIRST),
        (LINE + FIRST, FIRST),
        (FIRST + LINE + b"\n" + SECOND, FIRST + SECOND),
        (b"id: 7\n" + LINE + FIRST + LINE, b"id: 7\n" + FIRST),
        (b"event: x\n:\n" + LINE + FIRST, b"event: x\n" + FIRST),
        (b"data: : no comment\n\n" + LINE + b"\n", b"data: : no comment\n\n"),
        (b"\n" + LINE + b"\n" + FIRST, b"\n" + FIRST),
    ],
)
def test_comment_lines_go_and_the_rest_keeps_its_bytes(sent, left, end):
    assert transformed(with_line_ends(sent, end)) == with_line_ends(left, end)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_run_without_comments_is_the_same_object(end):
    run, transform = with_line_ends(b"".join(REALISTIC), end), WithoutComments()
    assert transform.feed(run) is run
    assert transform.adapted == ()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_at_every_split_point_the_events_are_all_that_is_left(end):
    body = with_line_ends(b"".join(LINE + b"\n" + LINE + one for one in REALISTIC), end)
    for size_bytes in (*range(1, 40), 97, 1000, 100_000):
        framer, transform = Framer(1 << 20), WithoutComments()
        out = b"".join(transform.feed(framer.feed(piece)) for piece in pieces(body, size_bytes))
        out += transform.feed(framer.tail)
        left = [one for one in split_events(out) if one.strip()]
        assert left == [with_line_ends(one, end) for one in REALISTIC], f"pieces of {size_bytes} bytes"
        assert transform.adapted == (WithoutComments.name,)


def test_dify_loses_no_event_of_a_stream_with_comments():
    sent = b"".join(LINE + b"\n" + LINE + one for one in REALISTIC)
    silenced, plain = new_stream(client_transform=make_client_transform(BUILT_IN_PROFILES["dify"])), new_stream()
    out, passed = silenced.feed(sent), plain.feed(sent)
    wanted = [one[5:].strip() for one in REALISTIC]
    assert dify_reads(out) == wanted
    assert len(dify_reads(passed)) < len(wanted)
    assert client_reads(out) == client_reads(passed) == [data.decode() for data in wanted]
    assert {**state(silenced), "adapted": ()} == {**state(plain), "adapted": ()}


@pytest.mark.parametrize("keep_alive", ["empty-delta", "off"])
def test_clients_without_comments_receive_none_in_streams_of_any_kind(keep_alive):
    profile = Profile(keep_alive=keep_alive, whole_numbers=True)
    for protocol in (CHAT, RESPONSES):
        after = protocol.last_transform(profile)
        assert after is not None
        assert after.feed(LINE + b"\n") == b""


def test_stream_without_chunks_loses_only_its_comments():
    usage = b'event: x\ndata: {"choices":[],"usage":{"total_tokens":null}}\n\n'
    after = RESPONSES.last_transform(BUILT_IN_PROFILES["dify"])
    assert after is not None
    assert after.feed(usage) is usage
    assert RESPONSES.last_transform(BUILT_IN_PROFILES["ragflow"]) is None
    assert RESPONSES.last_transform(PLAIN) is None
