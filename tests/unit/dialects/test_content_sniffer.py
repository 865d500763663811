from __future__ import annotations

import pytest

from gatepass.dialects.content import MAX_BLANK_BYTES, ContentKind, ContentSniffer

LABELS = [None, b"", b"text/event-stream", b"Text/HTML; charset=utf-8", b"application/json", b"text/plain"]
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'data: {"a":1}\n\n', ContentKind.STREAM),
        (b"data:{}\n\n", ContentKind.STREAM),
        (b"data\n\n", ContentKind.STREAM),
        (b"event: x\n", ContentKind.STREAM),
        (b"id:1\n", ContentKind.STREAM),
        (b"retry: 5\r", ContentKind.STREAM),
        (b": OPENROUTER PROCESSING\n\n", ContentKind.STREAM),
        (b"\n\r\n \tdata: x\n\n", ContentKind.STREAM),
        (BOM + b"data: x\n\n", ContentKind.STREAM),
        (b'{"object":"chat.completion"}', ContentKind.DOCUMENT),
        (b"\n\n\n\n{}", ContentKind.DOCUMENT),
        (b'[{"error":{}}]', ContentKind.DOCUMENT),
        (BOM + b" {}", ContentKind.DOCUMENT),
        (b"<!DOCTYPE html>", ContentKind.HTML),
        (b"\r\n <html>", ContentKind.HTML),
    ],
)
def test_first_bytes_win_over_the_label_at_every_split(label, body, expected):
    for at in range(len(body) + 1):
        sniffer = ContentSniffer(label)
        kinds = [sniffer.feed(piece) for piece in (body[:at], body[at:]) if sniffer.kind is ContentKind.UNDECIDED]
        assert kinds[-1] is expected
        assert set(kinds) <= {ContentKind.UNDECIDED, expected}
        assert body.startswith(sniffer.held)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (b"text/event-stream; charset=utf-8", ContentKind.STREAM),
        (b"text/html", ContentKind.HTML),
        (b"application/xhtml+xml", ContentKind.HTML),
        (b"application/json", ContentKind.DOCUMENT),
        (b"text/plain", ContentKind.DOCUMENT),
        (None, ContentKind.DOCUMENT),
    ],
)
@pytest.mark.parametrize("body", [b"vendor: x\n\n", b"Service", b"datax", b"idle", b"null", b'"text"', b"\xef\xbb{"])
def test_label_decides_where_the_bytes_show_nothing(label, expected, body):
    assert ContentSniffer(label).feed(body) is expected


@pytest.mark.parametrize(
    "part", [b"", b" \n", b"d", b"dat", b"event", b"i", b"re", b"\xef", b"\xef\xbb", BOM, BOM + b"\n"]
)
def test_what_may_still_become_a_stream_is_undecided(part):
    sniffer = ContentSniffer(b"text/html")
    assert sniffer.feed(part) is ContentKind.UNDECIDED
    assert sniffer.held == part


def test_decided_content_stays_decided():
    sniffer = ContentSniffer(None)
    sniffer.feed(b"data: x")
    assert sniffer.feed(b"<html>") is ContentKind.STREAM
    assert sniffer.held == b"data: x<html>"


def test_white_space_without_end_is_bounded():
    sniffer = ContentSniffer(b"text/event-stream")
    kinds = [sniffer.feed(b"\n") for _ in range(MAX_BLANK_BYTES + 1)]
    assert set(kinds[:-1]) == {ContentKind.UNDECIDED}
    assert kinds[-1] is ContentKind.STREAM
    assert len(sniffer.held) == MAX_BLANK_BYTES + 1


def test_first_piece_that_decides_is_held_as_the_same_object():
    piece, sniffer = b"data: x\n\n", ContentSniffer(None)
    sniffer.feed(piece)
    assert sniffer.held is piece
