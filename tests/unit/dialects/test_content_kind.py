from __future__ import annotations

import pytest

from gatepass.dialects.content import MAX_BLANK_BYTES, SEARCHED_BYTES, ContentKind, content_kind

LABELS = [None, b"", b"text/event-stream", b"Text/HTML; charset=utf-8", b"application/json", b"text/plain"]
BOM = b"\xef\xbb\xbf"


BODIES = {
    ContentKind.STREAM: [
        *(b'data: {"a":1}\n\n', b"data:{}\n\n", b"data\n\n", b"event: x\n", b"id:1\n", b"retry: 5\r"),
        *(b": OPENROUTER PROCESSING\n\n", b"\n\r\n \tdata: x\n\n", BOM + b"data: x\n\n"),
    ],
    ContentKind.DOCUMENT: [b'{"object":"chat.completion"}', b"\n\n\n\n{}", b'[{"error":{}}]', BOM + b" {}"],
    ContentKind.HTML: [b"<!DOCTYPE html>", b"\r\n <html>"],
}


@pytest.mark.parametrize(("expected", "body"), [(kind, body) for kind, bodies in BODIES.items() for body in bodies])
def test_first_bytes_win_over_the_label_at_every_split(body, expected):
    for label in LABELS:
        kinds = [content_kind(body[:end], label) for end in range(len(body) + 1)]
        assert kinds[-1] is expected, label
        assert set(kinds) <= {ContentKind.UNDECIDED, expected}, label


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
    assert content_kind(body, label) is expected


def test_white_space_without_end_is_bounded():
    assert content_kind(b"\n" * MAX_BLANK_BYTES, b"text/event-stream") is ContentKind.UNDECIDED
    assert content_kind(b"\n" * (MAX_BLANK_BYTES + 1), b"text/event-stream") is ContentKind.STREAM


@pytest.mark.parametrize("blanks", [SEARCHED_BYTES - 2, SEARCHED_BYTES - 1])
def test_a_field_name_cut_off_behind_white_space_is_decided_by_the_content_type(blanks: int):
    body = b" " * blanks + b"data: x\n\n"
    assert content_kind(body, b"text/event-stream") is ContentKind.STREAM
    assert content_kind(body, b"text/plain") is ContentKind.DOCUMENT


def test_a_field_name_that_arrives_in_two_pieces_after_white_space_begins_a_stream():
    beginning = b" " * MAX_BLANK_BYTES + b"da"
    assert content_kind(beginning, b"text/plain") is ContentKind.UNDECIDED
    assert content_kind(beginning + b"ta: x\n\n", b"text/plain") is ContentKind.STREAM
