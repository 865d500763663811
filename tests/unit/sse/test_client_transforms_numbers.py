"""The numbers of a stream's events after gatepass has inserted one."""

import json

import pytest

from gatepass.sse.client_transforms import LaterNumbers
from gatepass.sse.event import parse_event
from tests.unit.sse.streams import with_line_ends

EVENTS = (
    b'event: a\ndata: {"type":"a","sequence_number":9}\n\n',
    b'data: { "sequence_number" : 99 , "delta": "\\"sequence_number\\":1" }\n\n',
    b'id: 5\ndata:{"response":{"sequence_number":1},\ndata: "sequence_number":\ndata: 100}\n\n',
    b': a "sequence_number":1\ndata: {"sequence_number":0}\n\n',
)
RAISED = (
    b'event: a\ndata: {"type":"a","sequence_number":11}\n\n',
    b'data: { "sequence_number" : 101 , "delta": "\\"sequence_number\\":1" }\n\n',
    b'id: 5\ndata:{"response":{"sequence_number":1},\ndata: "sequence_number":\ndata: 102}\n\n',
    b': a "sequence_number":1\ndata: {"sequence_number":2}\n\n',
)


def raised(*blocks: bytes) -> tuple[bytes, tuple[str, ...]]:
    transform = LaterNumbers()
    transform.shift = 2
    return b"".join([*map(transform.feed, blocks), transform.finish()]), transform.adapted


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_only_the_digits_of_the_number_change(end):
    events = [with_line_ends(one, end) for one in EVENTS]
    wanted = b"".join(with_line_ends(one, end) for one in RAISED)
    assert raised(*events) == raised(b"".join(events)) == (wanted, ("sse=numbers",))


@pytest.mark.parametrize(
    "block",
    [
        *(b": a comment\n\n", b": a comment\n", b"data: [DONE]\n\n", b'data: {"type":"ping"}\n\n'),
        *(b'data: {"sequence_number":"7"}\n\n', b'data: {"sequence_number":1.5}\n\n'),
        b'data: {"response":{"sequence_number":1}}\n\n',
    ],
)
def test_an_event_without_a_number_passes_unchanged(block):
    assert raised(block) == (block, ())


def test_a_large_event_is_renumbered_too():
    text = "x" * 2**21
    block = b"data: " + json.dumps({"delta": text, "sequence_number": 3}).encode() + b"\n\n"
    changed, _ = raised(block)
    assert json.loads(parse_event(changed).data or b"") == {"delta": text, "sequence_number": 5}
