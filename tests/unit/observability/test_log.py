import asyncio
import io
import json
import logging
import select
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from gatepass.observability.log import Fields, LogFormatter, LogHandler, configure, emit
from gatepass.observability.redaction import Redactor
from gatepass.proxy.context import AccessRecord
from gatepass.sse.usage import Usage
from tests.unit.http_client.loop import one_iteration


@pytest.fixture
def logged():
    """Configure logging onto a buffer, and restore it afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("gatepass")
    before = (list(root.handlers), root.level, ours.level)

    def start(style="json", level="info", redactor=None, worker=None, stream=None):
        buffer = stream or io.StringIO()
        configure(level, style, redactor or Redactor(), buffer, worker)
        return buffer

    yield start
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_a_line_is_one_json_object_with_the_event_first(logged):
    buffer = logged()
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": "a", "model": 'm"\n', "code": None})
    line = json.loads(buffer.getvalue())
    assert list(line) == ["ts", "level", "event", "id", "model"]
    assert (line["event"], line["model"]) == ("request", 'm"\n')
    assert buffer.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("is_terminal", "style", "is_json"), [(True, None, False), (False, None, True), (True, "json", True)]
)
def test_at_a_terminal_the_log_is_text_unless_the_configuration_has_a_format(logged, is_terminal, style, is_json):
    class Stream(io.StringIO):
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


def test_text_form_quotes_what_could_fake_a_field(logged):
    buffer = logged(style="text")
    fields = {"model": "a status=200\nfake", "n": 1, "up": ["a", "b"]}
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", fields)
    assert buffer.getvalue().endswith('request model="a status=200\\nfake" n=1 up=a,b\n')


def test_text_form_quotes_a_name_that_could_fake_a_field(logged):
    buffer = logged(style="text")
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"up": {"a status=200\nfake": {"b c": 1}}})
    assert buffer.getvalue().endswith('request up."a status=200\\nfake"."b c"=1\n')


def test_text_form_names_what_a_field_holds(logged):
    buffer = logged(style="text")
    fields = {"id": "a", "usage": Usage(prompt_tokens=3, total_tokens=3), "up": {"one": "c", "none": None}}
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", fields)
    assert buffer.getvalue().endswith("request id=a usage.prompt_tokens=3 usage.total_tokens=3 up.one=c\n")


@pytest.mark.parametrize("fields", [{"id": "a"}, {}, {"id": "\ud83d"}], ids=["fields", "none", "half a surrogate pair"])
def test_worker_number_precedes_the_fields(logged, fields):
    buffer = logged(worker=3)
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", fields)
    logging.getLogger("gatepass.serve").info("drained", extra={"fields": fields})
    for line in map(json.loads, buffer.getvalue().splitlines()):
        assert list(line) == ["ts", "level", "event", "worker", *fields]
        assert line["worker"] == 3
    text = logged(style="text", worker=3)
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": "a"})
    assert text.getvalue().endswith("request worker=3 id=a\n")


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
@pytest.mark.parametrize(
    "field", [one for one in structs.fields(AccessRecord) if "str" in str(one.type)], ids=lambda one: one.name
)
def test_a_known_secret_is_masked_in_every_text_of_an_access_record(logged, style, field):
    redactor = Redactor()
    redactor.learn(secret := 'quoted "secret" of the issuer')
    buffer = logged(style, redactor=redactor)
    record = AccessRecord("1", "GET", "/", "none", outcome="error")
    record = structs.replace(record, **{field.name: (secret,) if "tuple" in str(field.type) else secret})
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", record, record.texts())
    assert "***" in buffer.getvalue()
    assert "of the issuer" not in buffer.getvalue()


def test_libraries_speak_from_warning_up_whatever_our_level(logged):
    buffer = logged(level="debug")
    logging.getLogger("httpcore2.http11").debug("send_request_headers authorization: Bearer x")
    logging.getLogger("gatepass.y").debug("ours")
    assert json.loads(buffer.getvalue())["event"] == "ours"


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


def test_unwritable_log_fails_no_request(logged, capsys):
    buffer = logged()
    buffer.close()
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": "a"})
    assert "request" in capsys.readouterr().err


def test_an_event_below_the_level_is_no_line(logged):
    buffer = logged(level="warning")
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"id": "a"})
    assert buffer.getvalue() == ""


def test_text_form_writes_nothing_that_a_terminal_obeys(logged):
    buffer = logged(style="text")
    emit(logging.getLogger("gatepass.access"), logging.INFO, "request", {"path": "/\x1b[31m\x0b\x9b", "model": "日本"})
    assert buffer.getvalue().endswith('request path="/\\u001b[31m\\u000b\\u009b" model=日本\n')


LOGGED: list[Fields] = [
    *({}, {"id": "a", "code": None}, {"id": None}, {"id": "\ud83d", "ä": 'q"', "n": None}, {"up": ("a", "s3cret-k")}),
    AccessRecord(
        "id-1", "POST", "/a b/\u65e5", "none", status=200, outcome="ok", caller="s3cret-k", bytes_in=0, bytes_out=0
    ),
]


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("worker", [None, 3])
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 35])
def test_an_event_is_the_same_line_with_and_without_another_handler(logged, style, worker, level):
    redactor = Redactor()
    redactor.learn("s3cret-k")
    buffer = logged(style=style, worker=worker, redactor=redactor)
    logger, other = logging.getLogger("gatepass.access"), logging.NullHandler()

    def lines():
        for fields in LOGGED * 2:
            emit(logger, level, "request", fields)
        reported = buffer.getvalue().splitlines()
        buffer.seek(buffer.truncate(0))
        return [line.partition("Z")[2] for line in reported]

    alone = lines()
    logger.addHandler(other)
    try:
        assert lines() == alone
    finally:
        logger.removeHandler(other)
    assert len(alone) == 2 * len(LOGGED)
    assert "s3cret-k" not in str(alone)


def test_each_level_of_an_event_and_each_event_of_a_level_are_distinguished(logged):
    buffer = logged()
    logger = logging.getLogger("gatepass.access")
    events = [(logging.INFO, "request"), (logging.WARNING, "request"), (logging.INFO, "bodies")] * 2
    for level, event in events:
        emit(logger, level, event, {})
    lines = [json.loads(line) for line in buffer.getvalue().splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        (logging.getLevelName(level).lower(), event) for level, event in events
    ]


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=5))
@example([0.0, 0.9999999999999999, 1.0, 0.5])
@example([1700000000.999, 1700000000.9999998, 1700000001.0, 1700000000.0])
def test_a_line_shows_its_time_in_whole_milliseconds_that_have_passed(moments):
    line = LogFormatter(Redactor(), "text")
    for at_s in moments:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(at_s)))
        assert line.format_event(at_s, "", {}) == f"{second}.{int(at_s % 1 * 1000):03d}Z"


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
    """A buffered stream that is not a terminal, with the error handling of stderr."""
    return io.TextIOWrapper(io.BufferedWriter(pipe), pipe.encoding, "backslashreplace")


@pytest.fixture
def sink(pipe):
    redactor = Redactor()
    redactor.learn("planted-secret")
    return LogHandler(stream(pipe), LogFormatter(redactor, "json"))


@pytest.fixture
def log_to(sink):
    """Logs an event with a name."""
    return lambda name, level=logging.INFO: sink.emit_event(level, "request", {"id": name})


def names(text):
    return [json.loads(line)["id"] for line in text.splitlines()]


async def test_lines_of_one_iteration_are_written_together_at_its_end(pipe, log_to):
    log_to("a")
    log_to("b")
    assert pipe.writes == []
    await one_iteration()
    log_to("c")
    assert [names(written) for written in pipe.writes] == [["a", "b"]]
    await one_iteration()
    assert [names(written) for written in pipe.writes] == [["a", "b"], ["c"]]


def test_line_is_written_at_once_without_an_event_loop(pipe, log_to):
    log_to("a")
    assert names(pipe.text) == ["a"]


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
async def test_warning_is_written_at_once_after_waiting_lines(pipe, log_to, level):
    log_to("a")
    log_to("b", level)
    assert [names(written) for written in pipe.writes] == [["a", "b"]]
    await one_iteration()
    assert len(pipe.writes) == 1


async def test_record_of_a_library_is_written_at_once_after_waiting_lines(pipe, sink, log_to):
    log_to("a")
    record = {"name": "elsewhere", "levelno": logging.ERROR, "msg": "failed", "fields": {"id": "b"}}
    sink.handle(logging.makeLogRecord(record))
    log_to("c")
    assert names(pipe.text) == ["a", "b"]
    await one_iteration()
    assert names(pipe.text) == ["a", "b", "c"]


async def test_waiting_lines_are_written_at_exit(pipe, sink, log_to):
    log_to("a")
    logging.shutdown([lambda: sink])
    assert names(pipe.text) == ["a"]


async def test_thread_without_a_loop_writes_waiting_lines_and_its_own(pipe, log_to):
    log_to("a")
    thread = threading.Thread(target=log_to, args=("b",))
    thread.start()
    thread.join()
    assert names(pipe.text) == ["a", "b"]


def test_waiting_lines_of_an_ended_loop_are_written_with_the_next_loop(pipe, log_to):
    left = asyncio.new_event_loop()
    left.call_soon(log_to, "a")
    left.call_soon(left.stop)
    left.run_forever()
    assert pipe.writes == []

    async def next_one():
        log_to("b")
        await one_iteration()

    asyncio.run(next_one())
    assert names(pipe.text) == ["a", "b"]
    left.close()


@pytest.mark.parametrize("end", ["broken", "closed"])
async def test_full_log_fails_no_request_and_is_reported(pipe, sink, log_to, capsys, end):
    log_to("a")
    if end == "closed":
        sink.stream.close()
    pipe.broken = True
    await one_iteration()
    reported = capsys.readouterr().err
    assert '"id":"a"' in reported.replace("\\", "")
    assert ("BrokenPipeError" in reported) == (end == "broken")
    pipe.broken = False


async def test_failed_write_is_reported_and_later_lines_are_written(pipe, log_to, capsys):
    first, second = "a" * 3_000, "b" * 3_000
    log_to(first)
    log_to(second)
    taken, pipe.write = pipe.write, lambda data: _fail_once(pipe, taken)
    await one_iteration()
    reported = capsys.readouterr().err
    assert first in reported
    assert second not in reported


def _fail_once(pipe, taken):
    pipe.write = taken
    raise BlockingIOError("full")


def test_an_event_that_cannot_be_encoded_fails_no_request_and_is_reported(pipe, sink, capsys):
    sink.emit_event(logging.INFO, "request", {"n": 10**5_000})
    sink.emit_event(logging.INFO, "request", {"id": "b"})
    assert "ValueError" in capsys.readouterr().err
    assert names(pipe.text) == ["b"]


def test_a_record_that_cannot_be_formatted_shows_no_secret(sink, capsys):
    record = {"name": "library", "levelno": logging.ERROR, "msg": "took %d", "args": ("planted-secret",)}
    sink.handle(logging.makeLogRecord(record))
    reported = capsys.readouterr().err
    assert "took %d" in reported
    assert "planted-secret" not in reported


NAMES = st.builds(str.__mul__, st.sampled_from("aé日"), st.integers(0, select.PIPE_BUF))


@given(st.lists(NAMES, max_size=12), st.sampled_from(["utf-8", "latin-1"]))
async def test_no_write_is_larger_than_what_a_pipe_keeps_apart_unless_its_only_line_is(expected, encoding):
    pipe = Pipe(encoding)
    sink = LogHandler(stream(pipe), LogFormatter(Redactor(), "json"))
    for name in expected:
        sink.emit_event(logging.INFO, "request", {"id": name})
    sink.flush()
    assert names(pipe.text) == expected
    sizes = [len(written.encode(encoding)) for written in pipe.writes]
    counts = [written.count("\n") for written in pipe.writes]
    assert all(size <= select.PIPE_BUF or count == 1 for size, count in zip(sizes, counts, strict=True))
    assert all(one + other > select.PIPE_BUF for one, other in pairwise(sizes))
