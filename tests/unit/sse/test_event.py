import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse import event as event_module
from gatepass.sse.event import Event, Framer, is_json, parse_event, read_json, split_events
from tests.memory import traced_memory
from tests.unit.sse.streams import pieces


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


def test_json_is_read_as_leniently_as_clients_read_it():
    assert read_json(b' {"a": [1, "\xc3\xa4"]} ') == {"a": [1, "ä"]}
    assert read_json(b'{"half": "\\ud83d"}') == {"half": "\ud83d"}
    assert math.isnan(read_json(b"NaN"))


@pytest.mark.parametrize("broken", [b"", b"[DONE]", b'{"a":', b"{'a':1}", b'"\xff"', b"[" * 100_000, b"9" * 5000])
def test_invalid_json_is_a_value_error(broken):
    with pytest.raises(ValueError, match=r".*"):
        read_json(broken)
    assert not is_json(broken)


def fed(framer: Framer, *given_pieces: bytes) -> list[bytes]:
    return [framer.feed(piece) for piece in given_pieces]


def reference_events(stream: bytes) -> list[bytes]:
    """The specification, read byte by byte: an event ends with a line that is empty."""
    events, start, at, line_start = [], 0, 0, 0
    while at < len(stream):
        if stream[at] not in b"\r\n":
            at += 1
            continue
        is_blank = at == line_start
        at += 2 if stream[at : at + 2] == b"\r\n" else 1
        line_start = at
        if is_blank:
            events.append(stream[start:at])
            start = at
    return events


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"data: x"]), max_size=40), st.data())
def test_any_mixture_of_line_ends_is_cut_as_specified(parts, draw):
    stream = b"".join(parts)
    framer, out, at = Framer(1 << 20), b"", 0
    while at < len(stream):
        size_bytes = draw.draw(st.integers(1, 8))
        out += framer.feed(stream[at : at + size_bytes])
        at += size_bytes
        assert out + framer.tail == stream[:at]
        whole = b"".join(reference_events(stream[:at]))
        assert whole.startswith(out)
        late = whole[len(out) :]
        assert late == b"" or (stream[:at].endswith(b"\r") and reference_events(late) == [late])


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"data: x"]), max_size=40))
def test_a_run_is_split_as_specified(parts):
    run = b"".join(reference_events(b"".join(parts)))
    assert split_events(run) == reference_events(run)
    assert event_module.count_lines(run) == run.count(b"\n") + run.count(b"\r")


# --- bounds ---------------------------------------------------------------------------------------


def test_event_above_the_limit_fails_and_many_within_it_pass_for_every_split():
    fits, too_large = b"data: 123\n\n", b"data: 1234\n\n"
    for size_bytes in (1, 2, 3, 5, 7, 64, 1000):
        framer = Framer(len(fits))
        assert b"".join(fed(framer, *pieces(fits * 50, size_bytes))) == fits * 50
        assert not framer.overflowed
        out = b"".join(fed(framer, *pieces(fits * 3 + too_large + fits, size_bytes)))
        assert (out, framer.overflowed, framer.feed(fits), framer.tail) == (fits * 3, True, b"", b""), size_bytes


def test_line_of_64_mib_is_refused_in_bounded_memory():
    framer, piece, limit_bytes = Framer(1 << 20), b"x" * (64 * 1024), 1 << 20
    with traced_memory() as memory:
        runs = [framer.feed(piece) for _ in range(1024)]
    assert (set(runs), framer.overflowed, framer.tail) == ({b""}, True, b"")
    assert memory.peak_bytes < 3 * limit_bytes


class CountingTail(bytearray):
    """A tail that counts the bytes copied into it, and the bytes read from it or searched."""

    touched_bytes = 0

    def __iadd__(self, more):
        CountingTail.touched_bytes += len(more)
        return super().__iadd__(more)

    def __add__(self, more):
        CountingTail.touched_bytes += len(self) + len(more)
        return super().__add__(more)

    def __bytes__(self):
        CountingTail.touched_bytes += len(self)
        return bytes(bytearray(self))


def counted(name):
    def read(self, *args):
        CountingTail.touched_bytes += len(self)
        return getattr(bytearray, name)(self, *args)

    return read


for reading in ("__getitem__", "find", "rfind", "endswith"):
    setattr(CountingTail, reading, counted(reading))


@pytest.mark.parametrize("size_bytes", [1, 64, 4096])
def test_work_grows_with_the_bytes_and_not_with_their_square(size_bytes, monkeypatch):
    event = b"data: " + b"x" * (256 * 1024) + b"\n\n"
    monkeypatch.setattr(event_module, "bytearray", CountingTail, raising=False)
    framer = Framer(1 << 20)
    monkeypatch.setattr(CountingTail, "touched_bytes", 0)
    assert b"".join(fed(framer, *pieces(event, size_bytes))) == event
    assert len(event) <= CountingTail.touched_bytes <= 2 * len(event)
