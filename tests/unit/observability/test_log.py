import io
import json
import logging
import math
import os
import select
import threading
import time
from contextlib import closing
from http import HTTPStatus
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from gatepass.observability import log
from gatepass.observability.access_log import texts_of
from gatepass.observability.log import Fields, LogFormatter, LogHandler, configure, emit
from gatepass.observability.observer import AccessRecord
from gatepass.observability.redaction import Redactor
from gatepass.sse.usage import Usage
from tests.waiting import block_until


class Text(io.StringIO):
    """A stream without a descriptor. Its value has all lines that were logged."""

    def getvalue(self) -> str:
        for handler in logging.root.handlers:
            handler.flush()
        return super().getvalue()


@pytest.fixture
def logged():
    root, ours = logging.getLogger(), logging.getLogger("gatepass")
    before = (list(root.handlers), root.level, ours.level)

    def start(style="json", level="info", redactor=None, stream=None):
        buffer = stream or Text()
        configure(level, style, redactor or Redactor(), buffer)
        return buffer

    yield start
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize(
    ("is_terminal", "style", "is_json"), [(True, None, False), (False, None, True), (True, "json", True)]
)
def test_at_a_terminal_the_log_is_text_unless_the_configuration_has_a_format(logged, is_terminal, style, is_json):
    class Stream(Text):
        def isatty(self) -> bool:
            return bool(is_terminal)

    buffer = logged(style=style, stream=Stream())
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": "a"})
    assert buffer.getvalue().startswith("{") is is_json


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("odd", ["\x1b[31m", "\x9b31m", "\u202e", "\u2028", "\x85", "\U000e0001"])
def test_no_line_controls_a_terminal(logged, style, odd):
    """Of the characters beyond ASCII, JSON requires no escape, and terminals obey some."""
    buffer = logged(style=style)
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"path": f"/{odd}", "model": "日本"})
    line = buffer.getvalue().removesuffix("\n")
    assert line.isprintable()
    assert "日本" in line
    if style == "json":
        assert json.loads(line)["path"] == f"/{odd}"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"model": "a status=200\nfake", "n": 1, "up": ["a", "b"]}, r'model="a status=200\nfake" n=1 up=a,b'),
        ({"up": {"a status=200\nfake": {"b c": 1}}}, r'up."a status=200\nfake"."b c"=1'),
        (
            {"id": "a", "usage": Usage(prompt_tokens=3, total_tokens=3), "up": {"one": "c", "none": None}},
            "id=a usage.prompt_tokens=3 usage.total_tokens=3 up.one=c",
        ),
        (
            {"a": 1e22, "b": -0.0, "c": math.nan, "d": -math.inf, "e": 10**30},
            "a=1e+22 b=-0.0 c=NaN d=-Infinity e=" + "1" + "0" * 30,
        ),
        ({"a": True, "b": HTTPStatus.OK, "c": [1, None, 0.5], "d": ("x y",)}, 'a=true b=200 c=1,None,0.5 d="x y"'),
        (
            {"a": "\\", "b": "é=", "c": "\ud800", "d": "", "e": b"x"},
            r"""a=\ b="é=" c="\ud800" d= e="\"b'x'\"" """.strip(),
        ),
    ],
)
def test_text_form_names_what_a_field_holds_and_quotes_what_could_fake_one(logged, fields, shown):
    buffer = logged(style="text")
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", fields)
    assert buffer.getvalue().endswith(f"request {shown}\n")


def test_a_known_secret_is_masked_in_every_field_and_in_traces(logged):
    redactor = Redactor()
    redactor.learn("planted-secret")
    buffer = logged(redactor=redactor)
    try:
        int("planted-secret")
    except ValueError:
        logging.getLogger("gatepass.x").exception("failed", extra={"fields": {"a": "planted-secret"}})
    logging.getLogger("other").error("planted-secret")
    assert "planted-secret" not in buffer.getvalue()
    assert buffer.getvalue().count("***") == 4  # the field, the trace twice, the other line


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_known_secret_is_masked_in_every_text_of_an_access_record(logged, style):
    redactor = Redactor()
    redactor.learn(secret := 'quoted "secret" of the issuer')
    for field in structs.fields(AccessRecord):
        if "str" in str(field.type):
            buffer = logged(style, redactor=redactor)
            record = AccessRecord("1", "GET", "/", "none", outcome="error")
            record = structs.replace(record, **{field.name: (secret,) if "tuple" in str(field.type) else secret})
            emit(logging.getLogger("gatepass.access"), logging.INFO, "request", record, texts_of(record))
            assert "***" in buffer.getvalue(), field.name
            assert "of the issuer" not in buffer.getvalue(), field.name


def test_libraries_speak_from_warning_up_whatever_our_level(logged):
    buffer = logged(level="debug")
    logging.getLogger("httpcore2.http11").debug("send_request_headers authorization: Bearer x")
    logging.getLogger("gatepass.y").debug("ours")
    assert json.loads(buffer.getvalue())["event"] == "ours"
    buffer = logged(level="warning")
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": "a"})
    assert buffer.getvalue() == ""


@pytest.mark.parametrize("where", ["gatepass.access", None])
def test_other_handlers_receive_every_event(logged, where):
    buffer, received = logged(), []

    class Listener(logging.Handler):
        def emit(self, record):
            received.append((record.name, record.levelname, record.getMessage(), record.fields))

    logger, listener = logging.getLogger("gatepass.access"), Listener()
    logging.getLogger(where).addHandler(listener)
    try:
        emit(logger, logging.WARNING, "request", {"id": "a", "code": None, "usage": Usage(3)})
    finally:
        logging.getLogger(where).removeHandler(listener)
    assert received == [("gatepass.access", "WARNING", "request", {"id": "a", "usage": {"prompt_tokens": 3}})]
    assert json.loads(buffer.getvalue())["level"] == "warning"


def test_unwritable_log_fails_no_request(logged):
    buffer, before = logged(), log.dropped_lines()
    buffer.close()
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": "a"})
    logging.root.handlers[0].flush()
    assert log.dropped_lines() == before + 1


EVENTS = ((logging.INFO, "request"), (logging.CRITICAL, "request"), (35, "request"), (logging.INFO, "refused"))
LOGGED: list[Fields] = [
    *({}, {"id": "a", "code": None}, {"id": None}, {"id": "\ud83d", "ä": 'q"', "n": None}, {"up": ("a", "s3cret-k")}),
    AccessRecord(
        "id-1", "POST", "/a b/\u65e5", "none", status=200, outcome="ok", caller="s3cret-k", bytes_in=0, bytes_out=0
    ),
]


@pytest.mark.parametrize("style", ["json", "text"])
def test_an_event_is_the_same_line_with_and_without_another_handler(logged, style):
    redactor = Redactor()
    redactor.learn("s3cret-k")
    buffer = logged(style=style, redactor=redactor)
    logger, other = logging.getLogger("gatepass.access"), logging.NullHandler()

    def lines():
        for (level, event), fields in product(EVENTS, LOGGED * 2):
            emit(logger, level, event, fields)
        reported = buffer.getvalue().splitlines()
        buffer.seek(buffer.truncate(0))
        return [line.partition("Z")[2] for line in reported]

    alone = lines()
    logger.addHandler(other)
    try:
        assert lines() == alone
    finally:
        logger.removeHandler(other)
    assert len(alone) == 2 * len(EVENTS) * len(LOGGED)
    assert "s3cret-k" not in str(alone)


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=5))
@example([1700000000.999, 1700000000.9999998, 1700000001.0, 1700000000.0])
def test_a_line_shows_its_time_in_whole_milliseconds_that_have_passed(moments):
    line = LogFormatter(Redactor(), "text")
    for at_s in moments:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(at_s)))
        assert line.format_event(at_s, "", {}) == f"{second}.{int(at_s % 1 * 1000):03d}Z"


class Pipe:
    """A pipe as stderr of a program. Its reader reads when the test calls `read`."""

    def __init__(self):
        self.source, self.end = os.pipe()
        self.is_closed = False
        stream = open(self.end, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - kept
        self.stream = stream
        redactor = Redactor()
        redactor.learn("planted-secret")
        self.sink = LogHandler(self.stream, LogFormatter(redactor, "json"))
        self.writer = self.sink.listener

    def log(self, name, level=logging.INFO, event="request"):
        self.sink.emit_event(level, event, {"id": name})

    def read(self):
        """Return the lines until the writer rests."""
        text = b""
        while True:
            rests = self.writer.is_idle  # asked first: what it wrote after a look at the pipe would be missed
            ready, _, _ = select.select([self.source], [], [], 0.01)
            if ready:
                text += os.read(self.source, 1 << 16)
            elif rests:
                break
        return [json.loads(line) for line in text.decode(self.stream.encoding).splitlines()]

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            os.close(self.source)


@pytest.fixture
def pipe():
    with closing(Pipe()) as made:
        yield made


def names(lines):
    return [line["id"] for line in lines if line["event"] != "log_lines_dropped"]


def test_lines_are_written_in_order_by_one_thread(pipe):
    before = threading.active_count()
    for number in range(500):
        pipe.log(str(number), logging.WARNING if number % 7 == 0 else logging.INFO)
    pipe.sink.handle(logging.makeLogRecord({"name": "elsewhere", "levelno": logging.ERROR, "fields": {"id": "last"}}))
    assert threading.active_count() == before
    assert names(pipe.read()) == [*map(str, range(500)), "last"]


def test_waiting_lines_are_written_at_exit(pipe):
    pipe.log("a")
    logging.shutdown([lambda: pipe.sink])
    assert names(pipe.read()) == ["a"]


def test_reader_that_stops_stops_no_request_and_sees_how_many_lines_it_lost(pipe):
    for number in range(20_000):
        pipe.log(f"{number:0100}")
    dropped = pipe.writer.dropped
    lines = pipe.read()
    assert dropped == 20_000 - len(lines)
    assert 1_000 < len(lines) < 10_000
    assert names(lines) == [f"{number:0100}" for number in range(len(lines))]
    for more, expected in (("next", [dropped]), ("last", [])):
        pipe.log(more)
        *notice, line = pipe.read()
        assert (line["id"], [one["count"] for one in notice]) == (more, expected)
        assert all((one["level"], one["event"]) == ("warning", "log_lines_dropped") for one in notice)


def test_exit_waits_only_so_long_for_a_reader_that_stopped(pipe, monkeypatch):
    monkeypatch.setattr(log, "FLUSH_S", 0.2)
    for _ in range(2_000):
        pipe.log("x" * 100)
    began_s = time.monotonic()
    logging.shutdown([lambda: pipe.sink])
    assert time.monotonic() - began_s > 0.1
    pipe.read()


def test_a_pipe_that_another_program_made_non_blocking_loses_no_line(pipe):
    os.set_blocking(pipe.end, False)
    for number in range(1_000):
        pipe.log(f"{number:0100}")
    block_until(lambda: select.select([], [pipe.end], [], 0)[1] == [])  # the pipe is full
    assert names(pipe.read()) == [f"{number:0100}" for number in range(1_000)]
    assert not os.get_blocking(pipe.end)


def test_lines_that_cannot_be_written_are_counted_and_fail_no_request(pipe):
    pipe.close()
    pipe.log("a")
    pipe.log("b")
    pipe.sink.flush()
    pipe.log("c")
    pipe.sink.flush()
    assert pipe.writer.is_idle, "the thread waits for the next line, and does not try again at once"
    assert pipe.writer.dropped == 3


def test_a_second_configuration_keeps_the_thread_and_the_order(logged, pipe):
    for number in range(10):
        logged(stream=pipe.stream)
        emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": str(number)})
    (sink,) = logging.root.handlers
    assert isinstance(sink, LogHandler)
    pipe.writer = sink.listener
    assert names(pipe.read()) == [*map(str, range(10))]


def test_an_event_that_cannot_be_encoded_fails_no_request_and_is_reported():
    buffer = io.StringIO()
    sink = LogHandler(buffer, LogFormatter(Redactor(), "json"))
    sink.emit_event(logging.INFO, "request", {"n": 10**5_000})
    sink.emit_event(logging.INFO, "request", {"id": "b"})
    sink.flush()
    *fault, last = buffer.getvalue().splitlines()
    assert "ValueError" in "".join(fault)
    assert json.loads(last)["id"] == "b"


def test_a_record_that_cannot_be_formatted_shows_no_secret(pipe):
    record = {"name": "library", "levelno": logging.ERROR, "msg": "took %d", "args": ("planted-secret",)}
    pipe.sink.handle(logging.makeLogRecord(record))
    pipe.sink.flush()
    reported = os.read(pipe.source, 1 << 16).decode()
    assert "took %d" in reported
    assert "planted-secret" not in reported
