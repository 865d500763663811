"""A reply from the bytes of a stream, cut at every byte and read to its last event only."""

from __future__ import annotations

import json

import pytest

from gatepass.errors import GatepassError
from gatepass.sse import aggregate
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.chunk import StreamSource
from gatepass.sse.dialect_transforms import RagflowStream
from gatepass.sse.event import LARGE_EVENT_BYTES
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import DONE, LIMIT_BYTES, chunk, data, finished, read_error, text

STOP = data(chunk({}, finish="stop"))
LINES = b"".join([b": hello\n\n", text("he"), text("llo"), STOP, DONE])


def assembly(limit_bytes: int = LIMIT_BYTES) -> CompletionAggregator:
    source = StreamSource("chat", max(limit_bytes, LIMIT_BYTES), read_error)
    return CompletionAggregator(source, limit_bytes, origin())


def content(one: CompletionAggregator) -> str:
    payload: str = json.loads(finished(one))["choices"][0]["message"]["content"]
    return payload


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_a_stream_cut_anywhere_is_the_same_reply(ends, mark):
    lines = mark + LINES.replace(b"\n", ends)
    for at in range(len(lines) + 1):
        one = assembly()
        one.feed(lines[:at])
        one.feed(lines[at:])
        assert content(one) == "hello"


def test_after_done_no_more_is_wanted():
    one = assembly()
    assert one.feed(LINES[:-2])
    assert not one.feed(LINES[-2:])
    assert not one.feed(text("more"))
    assert content(one) == "hello"


def test_after_an_error_no_more_is_wanted():
    one = assembly()
    assert not one.feed(text("he") + data({"error": {"message": "boom", "code": 503}}))
    with pytest.raises(GatepassError, match="boom"):
        finished(one)


def test_event_above_its_limit_is_an_error_for_every_split():
    large = text("x" * 1000)
    for pieces in ([large], [large[:600], large[600:]], [large[:-2] * 3]):
        one = assembly(500)
        assert not [one.feed(piece) for piece in pieces][-1]
        with pytest.raises(GatepassError, match=r"limits\.event_bytes"):
            finished(one)


def fails(pieces: list[bytes]) -> str:
    one = assembly(32 * 1024 * 1024)
    for piece in pieces:
        one.feed(piece)
        if one.is_check_due:
            list(one.check_size())
    with pytest.raises(GatepassError) as caught:
        finished(one)
    return str(caught.value)


@pytest.fixture
def small_most(monkeypatch):
    """A smaller MOST_BYTES: with 12 MiB, a process that has collected all unit tests would hold 520 MiB."""
    monkeypatch.setattr(aggregate, "MOST_BYTES", 2 * LARGE_EVENT_BYTES)


@pytest.mark.usefixtures("small_most")
@pytest.mark.parametrize("name", [b"", b"event: image\n"])
def test_event_above_the_limit_of_a_whole_reply_names_it_for_every_split(name):
    raw = name + text("x" * aggregate.MOST_BYTES) + STOP + DONE
    for cut in (0, 100, len(raw) - len(DONE), len(raw) - 1):
        assert "larger than 12 MiB, the limit of a reply without `stream: true`" in fails([raw[:cut], raw[cut:]])


@pytest.mark.usefixtures("small_most")
def test_reply_above_its_limit_fails_for_every_split():
    half = aggregate.MOST_BYTES // 2
    parts = [text("x" * half), text("y" * half), STOP, DONE]
    raw = b"".join(parts)
    for pieces in (parts, [raw], [*parts[:1], b"".join(parts[1:])], [raw[:-1], raw[-1:]]):
        assert "too large to make a whole reply" in fails(pieces)
    small = [text("x" * (half // 6))] * 13  # the last ones are not checked before the end
    assert "too large to make a whole reply" in fails([*small, STOP + DONE])


def test_a_large_event_is_read_by_the_next_call():
    one = assembly(32 * 1024 * 1024)
    large = text("x" * LARGE_EVENT_BYTES)
    waiting = []
    for piece in (large, b""):
        assert one.feed(piece)
        waiting.append(one.has_large)
    assert waiting == [True, False]
    one.feed(large + STOP)  # the body may end within this piece
    assert content(one) == "x" * LARGE_EVENT_BYTES * 2


def test_a_large_event_without_its_blank_line_is_a_cut_stream():
    assert "before the answer was complete" in fails([text("hi") + text("x" * LARGE_EVENT_BYTES)[:-1]])


@pytest.mark.parametrize("left", [1, 2])
def test_a_last_event_without_its_blank_line_counts(left):
    for lines in (LINES, LINES.removesuffix(DONE)):
        one = assembly()
        one.feed(lines[:-left])
        assert content(one) == "hello"


def test_half_an_event_is_a_stream_that_was_cut():
    one = assembly()
    one.feed(text("he") + STOP[:-10])
    with pytest.raises(GatepassError) as caught:
        finished(one)
    assert caught.value.public_code == "upstream_closed"


def test_empty_body_is_not_an_answer():
    for lines in (b"", b"\n\n", DONE, b": ping\n\n"):
        one = assembly()
        one.feed(lines)
        with pytest.raises(GatepassError) as caught:
            finished(one)
        assert caught.value.public_code == "upstream_empty"


TEXTS = ("The answer", "The answer is", "The answer is forty")


@pytest.mark.parametrize("end", [DONE, b""])
def test_chunks_that_a_transform_and_the_repair_hold_are_part_of_the_reply(end):
    source, transform = StreamSource("chat", LIMIT_BYTES, read_error), RagflowStream(origin())
    one = CompletionAggregator(source, LIMIT_BYTES, origin(), cumulative=True, transform=transform)
    for payload in TEXTS:
        assert one.feed(text(payload))
    one.feed(STOP + end)
    assert content(one) == TEXTS[-1]
