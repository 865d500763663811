"""Streams in their plainest form, for a client that reads no other."""

import json

import pytest

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, Profile
from gatepass.protocols.responses import RESPONSES
from gatepass.sse.client_transforms import PlainEvents, make_client_transform
from gatepass.sse.event import Framer
from tests.unit.sse.peer import helper_reads
from tests.unit.sse.streams import DONE, REALISTIC, chunk, data, new_stream, pieces, state, text, with_line_ends

CLEAN = b"".join(REALISTIC)
SPREAD = (
    b'data: {"id":"c","object":"chat.completion.chunk",\n'
    b'data:"created":1,"model":"m",\n'
    b'data: "choices":[{"index":0,"delta":{"role":"assistant","content":"a b"},"finish_reason":null}]}\n\n'
)


def dify_reads(stream: bytes) -> list[object]:
    """Read as Dify's plugin does (dify-plugin-sdks, openai_compatible/llm.py): split at two line feeds, remove `data:
    `. The answer ends at the first piece that is not JSON."""
    found: list[object] = []
    for piece in stream.decode().split("\n\n"):
        text_of_data = piece.strip().removeprefix("data: ").lstrip()
        if text_of_data and not piece.strip().startswith(":") and text_of_data != "[DONE]":
            found.append(json.loads(text_of_data))
    return found


WANTED = dify_reads(CLEAN)


def named(stream: list[bytes], line: bytes) -> bytes:
    return b"".join(line + one for one in stream)


@pytest.mark.parametrize("run", [CLEAN, *REALISTIC, data(chunk({}), gap=b"  "), data(chunk({}), spaced=True), DONE])
def test_plain_event_is_the_same_object(run):
    transform = PlainEvents()
    assert transform.feed(run) is run
    assert (transform.adapted, transform.finish()) == ((), b"")


@pytest.mark.parametrize(
    "stream",
    [
        with_line_ends(CLEAN, b"\r\n"),
        with_line_ends(CLEAN, b"\r"),
        CLEAN.replace(b"data: {", b"data:{").replace(b"data: [DONE]\n\n", b"data:[DONE]\n\n"),
        named(REALISTIC, b"event: message\n"),
        named(REALISTIC, b"id: 7\n"),
        named(REALISTIC, b"retry: 100\n"),
        named(REALISTIC, b": alive\n"),
        b"\n\n" + named(REALISTIC, b": alive\n\n\n"),
        CLEAN + b": alive\n",
    ],
    ids=["crlf", "cr", "no space", "names", "ids", "retry", "comments", "blank lines", "comment behind"],
)
def test_every_framing_becomes_the_one_that_dify_reads(stream):
    for size_bytes in (1, 2, 3, 7, 97, 1_000_000):
        framer, transform = Framer(1 << 20), PlainEvents()
        out = b"".join(transform.feed(framer.feed(piece)) for piece in pieces(stream, size_bytes))
        assert out + transform.feed(framer.tail) == CLEAN, f"pieces of {size_bytes} bytes"
        assert transform.adapted == (PlainEvents.name,)


def test_data_of_several_lines_becomes_one_with_the_same_meaning():
    transform = PlainEvents()
    out = transform.feed(text("x") + SPREAD + DONE)
    lines = [line.removeprefix("data:") for line in SPREAD.decode().splitlines()]
    assert out.count(b"\n") == 6
    assert dify_reads(out)[1] == json.loads("".join(lines))
    assert out.startswith(text("x"))
    assert transform.adapted == (PlainEvents.name,)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("gap", [b"", b" "])
def test_dify_reads_the_whole_answer_of_any_stream(end, gap):
    sent = with_line_ends(b"".join(b"event: message\nid: 1\ndata:" + gap + one[6:] for one in REALISTIC), end)
    plain = new_stream(client_transform=make_client_transform(BUILT_IN_PROFILES["dify"]))
    out = plain.feed(sent) + plain.finish()
    assert dify_reads(out) == WANTED
    assert helper_reads(out) == helper_reads(CLEAN)
    assert state(plain)["adapted"] == (PlainEvents.name,)


def test_plain_events_change_chunks_of_their_profiles_only():
    event = b'event: response.created\ndata: {"type":"response.created"}\n\n'
    after = RESPONSES.last_transform(BUILT_IN_PROFILES["dify"])
    assert after is not None
    assert after.feed(event) is event
    assert make_client_transform(PLAIN) is None
    assert make_client_transform(Profile(plain_events=True)) is not None
    assert [name for name, profile in BUILT_IN_PROFILES.items() if profile.plain_events] == ["dify"]
