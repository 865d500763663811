import asyncio
import io
import json
import logging
import select
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.observe.line import Line
from gatepass.observe.redaction import Redactor
from gatepass.observe.sink import Sink
from tests.unit.transport.loop import one_turn


class Pipe(io.RawIOBase):
    """Remembers what each write to the kernel held; a `broken` one takes none."""

    def __init__(self, encoding="utf-8"):
        super().__init__()
        self.encoding = encoding
        self.writes = []
        self.broken = False

    def writable(self):
        return True

    def write(self, data):
        if self.broken:
            raise BrokenPipeError("nobody reads it")
        self.writes.append(bytes(data).decode(self.encoding))
        return len(data)

    @property
    def text(self):
        return "".join(self.writes)


@pytest.fixture
def pipe():
    return Pipe()


def stream(pipe):
    """Buffered as a file is that is no terminal, with the errors of stderr."""
    return io.TextIOWrapper(io.BufferedWriter(pipe), pipe.encoding, "backslashreplace")


@pytest.fixture
def sink(pipe):
    redactor = Redactor()
    redactor.learn("planted-secret")
    return Sink(stream(pipe), Line(redactor, "json"))


@pytest.fixture
def tell(sink):
    """Logs an event with a name."""
    return lambda name, level=logging.INFO: sink.tell(level, "exchange", {"id": name})


def names(text):
    return [json.loads(line)["id"] for line in text.splitlines()]


async def test_the_lines_of_one_turn_go_out_in_one_write_when_it_is_over(pipe, tell):
    tell("a")
    tell("b")
    assert pipe.writes == []
    await one_turn()
    tell("c")
    assert [names(written) for written in pipe.writes] == [["a", "b"]]
    await one_turn()
    assert [names(written) for written in pipe.writes] == [["a", "b"], ["c"]]


def test_where_no_loop_runs_a_line_goes_out_at_once(pipe, tell):
    tell("a")
    assert names(pipe.text) == ["a"]


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
async def test_what_went_wrong_goes_out_at_once_behind_what_waited(pipe, tell, level):
    tell("a")
    tell("b", level)
    assert [names(written) for written in pipe.writes] == [["a", "b"]]
    await one_turn()
    assert len(pipe.writes) == 1


async def test_what_others_log_goes_out_at_once_behind_what_waited(pipe, sink, tell):
    tell("a")
    record = {"name": "elsewhere", "levelno": logging.ERROR, "msg": "failed", "fields": {"id": "b"}}
    sink.handle(logging.makeLogRecord(record))
    tell("c")
    assert names(pipe.text) == ["a", "b"]
    await one_turn()
    assert names(pipe.text) == ["a", "b", "c"]


async def test_what_waits_when_the_process_ends_is_written(pipe, sink, tell):
    tell("a")
    logging.shutdown([lambda: sink])
    assert names(pipe.text) == ["a"]


async def test_a_thread_without_a_loop_writes_what_waits_and_its_own_line(pipe, tell):
    tell("a")
    thread = threading.Thread(target=tell, args=("b",))
    thread.start()
    thread.join()
    assert names(pipe.text) == ["a", "b"]


def test_what_a_loop_left_waiting_that_runs_no_more_goes_out_with_the_next_one(pipe, tell):
    left = asyncio.new_event_loop()
    left.call_soon(tell, "a")
    left.call_soon(left.stop)
    left.run_forever()
    assert pipe.writes == []

    async def next_one():
        tell("b")
        await one_turn()

    asyncio.run(next_one())
    assert names(pipe.text) == ["a", "b"]
    left.close()


@pytest.mark.parametrize("end", ["broken", "closed"])
async def test_a_stream_that_takes_nothing_fails_nobody_and_is_told_of(pipe, sink, tell, capsys, end):
    tell("a")
    if end == "closed":
        sink.stream.close()
    pipe.broken = True
    await one_turn()
    told = capsys.readouterr().err
    assert '"id":"a"' in told.replace("\\", "")
    assert ("BrokenPipeError" in told) == (end == "broken")
    pipe.broken = False


async def test_a_write_that_fails_is_told_of_alone_and_the_others_go_on(pipe, tell, capsys):
    first, second = "a" * 3_000, "b" * 3_000
    tell(first)
    tell(second)
    taken, pipe.write = pipe.write, lambda data: _fail_once(pipe, taken)
    await one_turn()
    told = capsys.readouterr().err
    assert first in told
    assert second not in told


def _fail_once(pipe, taken):
    pipe.write = taken
    raise BlockingIOError("full")


def test_an_event_that_cannot_be_written_out_fails_nobody_and_is_told_of(pipe, sink, capsys):
    sink.tell(logging.INFO, "exchange", {"n": 10**5_000})
    sink.tell(logging.INFO, "exchange", {"id": "b"})
    assert "ValueError" in capsys.readouterr().err
    assert names(pipe.text) == ["b"]


def test_a_record_that_cannot_be_formatted_shows_no_secret(sink, capsys):
    record = {"name": "library", "levelno": logging.ERROR, "msg": "took %d", "args": ("planted-secret",)}
    sink.handle(logging.makeLogRecord(record))
    told = capsys.readouterr().err
    assert "took %d" in told
    assert "planted-secret" not in told


NAMES = st.builds(str.__mul__, st.sampled_from("aé日"), st.integers(0, select.PIPE_BUF))


@given(st.lists(NAMES, max_size=12), st.sampled_from(["utf-8", "latin-1"]))
async def test_no_write_is_larger_than_what_a_pipe_keeps_apart_unless_its_only_line_is(told, encoding):
    pipe = Pipe(encoding)
    sink = Sink(stream(pipe), Line(Redactor(), "json"))
    for name in told:
        sink.tell(logging.INFO, "exchange", {"id": name})
    sink.flush()
    assert names(pipe.text) == told
    sizes = [len(written.encode(encoding)) for written in pipe.writes]
    counts = [written.count("\n") for written in pipe.writes]
    assert all(size <= select.PIPE_BUF or count == 1 for size, count in zip(sizes, counts, strict=True))
    assert all(one + other > select.PIPE_BUF for one, other in pairwise(sizes))
