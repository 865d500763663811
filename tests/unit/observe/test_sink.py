import asyncio
import io
import json
import logging
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.observe.line import Line
from gatepass.observe.redaction import Redactor
from gatepass.observe.sink import WRITE_BYTES, Sink
from tests.unit.transport.loop import one_turn


class Stream(io.StringIO):
    """Remembers what each write held."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, text):
        self.writes.append(text)
        return super().write(text)


@pytest.fixture
def stream():
    return Stream()


@pytest.fixture
def sink(stream):
    return Sink(stream, Line(Redactor(), "json"))


@pytest.fixture
def tell(sink):
    """Logs an event with a name."""
    return lambda name, level=logging.INFO: sink.tell(level, "exchange", {"id": name})


def names(text):
    return [json.loads(line)["id"] for line in text.splitlines()]


async def test_the_lines_of_one_turn_go_out_in_one_write_when_it_is_over(stream, tell):
    tell("a")
    tell("b")
    assert stream.writes == []
    await one_turn()
    tell("c")
    assert [names(written) for written in stream.writes] == [["a", "b"]]
    await one_turn()
    assert [names(written) for written in stream.writes] == [["a", "b"], ["c"]]


def test_where_no_loop_runs_a_line_goes_out_at_once(stream, tell):
    tell("a")
    assert names(stream.getvalue()) == ["a"]


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
async def test_what_went_wrong_goes_out_at_once_behind_what_waited(stream, tell, level):
    tell("a")
    tell("b", level)
    assert [names(written) for written in stream.writes] == [["a", "b"]]
    await one_turn()
    assert len(stream.writes) == 1


async def test_what_others_log_goes_out_at_once_behind_what_waited(stream, sink, tell):
    tell("a")
    record = {"name": "elsewhere", "levelno": logging.ERROR, "msg": "failed", "fields": {"id": "b"}}
    sink.handle(logging.makeLogRecord(record))
    tell("c")
    assert names(stream.getvalue()) == ["a", "b"]
    await one_turn()
    assert names(stream.getvalue()) == ["a", "b", "c"]


async def test_what_waits_when_the_process_ends_is_written(stream, sink, tell):
    tell("a")
    logging.shutdown([lambda: sink])
    assert names(stream.getvalue()) == ["a"]


async def test_a_thread_without_a_loop_writes_what_waits_and_its_own_line(stream, tell):
    tell("a")
    thread = threading.Thread(target=tell, args=("b",))
    thread.start()
    thread.join()
    assert names(stream.getvalue()) == ["a", "b"]


def test_what_a_loop_left_waiting_that_runs_no_more_goes_out_with_the_next_one(stream, tell):
    left = asyncio.new_event_loop()
    left.call_soon(tell, "a")
    left.call_soon(left.stop)
    left.run_forever()
    assert stream.writes == []

    async def next_one():
        tell("b")
        await one_turn()

    asyncio.run(next_one())
    assert names(stream.getvalue()) == ["a", "b"]
    left.close()


async def test_a_stream_that_takes_nothing_fails_nobody_and_is_told_of(stream, tell, capsys):
    tell("a")
    stream.close()
    await one_turn()
    assert '"id":"a"' in capsys.readouterr().err


@given(st.lists(st.text(alphabet="aé日", max_size=WRITE_BYTES), max_size=12))
async def test_no_write_is_larger_than_what_a_pipe_keeps_apart_unless_its_only_line_is(told):
    stream = Stream()
    sink = Sink(stream, Line(Redactor(), "json"))
    for name in told:
        sink.tell(logging.INFO, "exchange", {"id": name})
    sink.flush()
    assert names(stream.getvalue()) == told
    sizes = [len(written.encode()) for written in stream.writes]
    assert all(
        size <= WRITE_BYTES or written.count("\n") == 1 for size, written in zip(sizes, stream.writes, strict=True)
    )
    assert all(one + other > WRITE_BYTES for one, other in pairwise(sizes))
