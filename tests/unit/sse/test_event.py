from __future__ import annotations

import math

import pytest

from gatepass.sse.event import Event, is_json, parse_event, read_json, single_line_data


def event(**fields):
    return Event(**{"data": None, "name": b"", "id": b"", "comments": b"", "is_dispatched": False, **fields})


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"data: x\n\n", event(data=b"x", is_dispatched=True)),
        (b"data:x\r\n\r\n", event(data=b"x", is_dispatched=True)),
        (b"data:  x\r\r", event(data=b" x", is_dispatched=True)),
        (b"data\n\n", event(data=b"", is_dispatched=True)),
        (b"data: {\r\ndata: }\n\n", event(data=b"{\n}", is_dispatched=True)),
        (b"data\ndata\n\n", event(data=b"\n", is_dispatched=True)),
        (b"event: error\nid: 7\ndata: a:b\n\n", event(data=b"a:b", name=b"error", id=b"7", is_dispatched=True)),
        (b"id: 7\nid: 8\n\n", event(id=b"8", is_dispatched=True)),
        (b"id: 7\0\n\n", event()),
        (b"id:\n\n", event()),
        (b"event: ping\n\n", event(name=b"ping", is_dispatched=True)),
        (b"retry: 3000\n\n", event(is_dispatched=True)),
        (b"retry: soon\n\n", event()),
        (b"retry: +5\n\n", event()),  # the format takes digits alone
        (b"vendor: x\n\n", event()),
        (b": one\r\n:two\r\n\r\n", event(comments=b": one\r\n:two\r\n")),
        (b"\n", event()),
    ],
)
def test_event_is_parsed_by_the_rules_of_the_format(block, expected):
    assert parse_event(block) == expected


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (b"data: x\n\n", b" x"),
        (b"data:x\r\n\r\n", b"x"),
        (b"data:x\r\r", None),
        (b"data:x\n\n\n", None),
        (b"data:x\n\r\n", None),
        (b"data:x\r\n\n", None),
        (b"data:x\rdata:y\n\n", None),
        (b"data:x\rdata:y\r\n\r\n", None),
        (b"data:x\n\ndata:y\n\n", None),
        (b"data:x\r\n\r\ndata:y\r\n\r\n", None),
        (b"id: 1\ndata:x\n\n", None),
        (b"data:x", None),
    ],
)
def test_only_a_single_one_line_event_uses_the_fast_path(run, expected):
    assert single_line_data(run) == expected


def test_json_is_read_as_leniently_as_clients_read_it():
    assert read_json(b' {"a": [1, "\xc3\xa4"]} ') == {"a": [1, "ä"]}
    assert read_json(b'{"half": "\\ud83d"}') == {"half": "\ud83d"}
    assert math.isnan(read_json(b"NaN"))


@pytest.mark.parametrize("broken", [b"", b"[DONE]", b'{"a":', b"{'a':1}", b'"\xff"', b"[" * 100_000, b"9" * 5000])
def test_invalid_json_is_a_value_error(broken):
    with pytest.raises(ValueError, match=r".*"):
        read_json(broken)
    assert not is_json(broken)
