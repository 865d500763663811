"""Write log events as JSON or text lines, with known secrets masked."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import copy
from math import floor
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, TextIO

import msgspec

from gatepass.observability.redaction import Redactor

Fields = dict[str, Any] | msgspec.Struct
"""A struct leaves out fields with their default (`omit_defaults`)."""

ROOT = "gatepass"
_LEVELS = MappingProxyType({logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"})

_MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))
"""Prepared endings of a time: formatting a number takes 0.5 µs, a tenth of the line."""
_JSON = msgspec.json.Encoder(enc_hook=str)


def _json_head(level: str, event: str) -> str:
    try:
        quoted = _JSON.encode(event).decode()
    except UnicodeEncodeError:
        quoted = json.dumps(event)
    return f'","level":"{level}","event":{quoted}'


def _json_fields(fields: Fields) -> str:
    try:
        encoded = _JSON.encode(fields).decode()
    except UnicodeEncodeError:  # clients send half a surrogate pair, which msgspec cannot encode
        encoded = json.dumps(listed(fields), separators=(",", ":"), default=str)
    if not (encoded.isascii() or encoded.isprintable()):  # msgspec escapes no control characters beyond ASCII
        encoded = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in encoded)
    return "," + encoded[1:] if encoded != "{}" else "}"


def _text_fields(fields: Fields, prefix: str = "") -> str:
    """Write nested fields as `usage.total_tokens=3`. Names are quoted like values, so that none can fake another."""
    named = {f"{prefix}{_plain(name)}": value for name, value in listed(fields).items()}
    return "".join(
        _text_fields(value, f"{name}.") if isinstance(value, dict) else f" {name}={_plain(value)}"
        for name, value in named.items()
    )


_STYLES = MappingProxyType(
    {"json": ('{"ts":"', _json_head, _json_fields), "text": ("", " {:<7} {}".format, _text_fields)}
)
"""The beginning of a line, and the functions that format its head and its fields."""


class LogFormatter(logging.Formatter):
    """Format a record as one line: `{"ts", "level", "event", …fields}` or `time level event key=value …`."""

    def __init__(self, redactor: Redactor, style: str) -> None:
        super().__init__()
        self._redactor = redactor
        self._opening, self._format_head, self._format_fields = _STYLES[style]
        self._second, self._second_text = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {} if record.name.startswith(ROOT) else {"logger": record.name}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self.format_event(record.created, self.head(record.levelno, record.getMessage()), fields)

    def masked(self, text: str) -> str:
        return self._redactor.mask(text)

    def head(self, level: int, event: str) -> str:
        level_name = _LEVELS.get(level) or logging.getLevelName(level).lower()
        return self._format_head(level_name, event)

    def format_event(self, created_s: float, head: str, fields: Fields, texts: str | None = None) -> str:
        """Return the line of one event. `texts`: see `emit`."""
        past_s = created_s - self._second
        if not 0 <= past_s < 1:  # each second is formatted once, for all of its lines
            self._second = second = int(created_s)
            self._second_text = self._opening + time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            past_s = created_s - second
        line = f"{self._second_text}{_MILLISECONDS[floor(past_s * 1000)]}{head}{self._format_fields(fields)}"
        return line if texts is not None and not self._redactor.holds(texts) else self._redactor.mask(line)


def listed(fields: Fields) -> dict[str, Any]:
    """Return `fields` as a dict without None and defaults, also in structs that a field holds."""
    if isinstance(fields, msgspec.Struct):
        named: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=str)
        return named
    given = {name: value for name, value in fields.items() if value is not None}
    return {name: listed(value) if isinstance(value, msgspec.Struct) else value for name, value in given.items()}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if text.isprintable():
        return json.dumps(text, ensure_ascii=False) if any(char in text for char in ' "=') else text
    return json.dumps(text)  # in ASCII, because a path may hold control sequences for a terminal


WRITE_BYTES = select.PIPE_BUF
"""The kernel does not interleave writes of up to this size, 4 KiB, with those of other processes (pipe(7))."""
QUEUE_CHARS, RESERVED_CHARS = 1024 * 1024, 256 * 1024
"""Lines that wait while no process reads the log, and more of them for lines that no request causes."""
OF_REQUESTS = frozenset(("request", "refused"))
"""Events that clients cause. They are dropped first: lines about reloads and keys have the reserve."""
PACE_S = 0.01
"""The thread writes the lines of this time together."""
FLUSH_S = 2.0
"""How long the exit waits for the log's reader."""


class LogWriter:
    """Writes lines in a thread, so that no request waits for the log's reader.

    One thread at a time calls `put`. It shares the queue with the writing thread without a lock: only `put` changes
    `_put_chars`, and only the thread changes `_taken_chars`.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self.dropped = 0
        """Lines that did not fit into the queue, or could not be written."""
        self.notice: Callable[[int], str] = str
        """Formats the line that states the number of dropped lines at their place."""
        self._descriptor, self._encoding = descriptor, encoding
        self._queue: SimpleQueue[str] = SimpleQueue()
        self._put_chars = self._taken_chars = 0
        self._reported = 0
        self._count_lock = threading.Lock()
        self._is_failing = False
        """Whether the last write failed. A notice waits for a write that succeeds."""
        self._thread: threading.Thread | None = None

    def put(self, line: str, *, is_reserved: bool) -> None:
        """Queue `line`. Drop it if too many lines wait; `is_reserved` allows RESERVED_CHARS more."""
        size = len(line)
        limit = QUEUE_CHARS + RESERVED_CHARS if is_reserved else QUEUE_CHARS
        if self._put_chars - self._taken_chars + size > limit:
            self._count_dropped(1)
            return
        if self.dropped != self._reported and not self._is_failing:
            notice = self._take_notice()
            self._put_chars += len(notice)
            self._queue.put(notice)
        self._put_chars += size
        self._queue.put(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gatepass-log", daemon=True)
            self._thread.start()

    def flush(self, bound_s: float) -> None:
        """Wait until all lines are written, up to `bound_s`."""
        until_s = time.monotonic() + bound_s
        while not self.is_idle and time.monotonic() < until_s:
            time.sleep(PACE_S / 10)

    @property
    def is_idle(self) -> bool:
        """Whether all lines are written."""
        return self._put_chars == self._taken_chars

    def _run(self) -> None:
        while True:
            lines = [self._queue.get()]
            while not self._queue.empty():
                lines.append(self._queue.get())
            self._write(lines)
            if self._queue.empty() and self.dropped != self._reported and not self._is_failing:
                self._write([self._take_notice()])
            self._taken_chars += sum(map(len, lines))
            time.sleep(PACE_S)

    def _write(self, lines: list[str]) -> None:
        for piece in pieces(lines, self._encoding):
            left = memoryview(piece)
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                    self._is_failing = False
                except BlockingIOError:  # another program has made the shared pipe non-blocking
                    time.sleep(PACE_S)
                except OSError:  # such as a full disk, or a reader that has closed the pipe
                    self._is_failing = True
                    self._count_dropped(piece.count(b"\n"))
                    break

    def _count_dropped(self, lines: int) -> None:
        with self._count_lock:
            self.dropped += lines

    def _take_notice(self) -> str:
        with self._count_lock:
            count, self._reported = self.dropped - self._reported, self.dropped
        return self.notice(count)


def pieces(lines: Iterable[str], encoding: str) -> Iterator[bytes]:
    """Join `lines` to pieces of at most WRITE_BYTES. A longer line becomes one piece."""
    piece = bytearray()
    for line in lines:
        # stderr writes a character that its encoding lacks as an escape
        encoded = line.encode(encoding, "backslashreplace") + b"\n"
        if piece and len(piece) + len(encoded) > WRITE_BYTES:
            yield bytes(piece)
            piece.clear()
        piece += encoded
    if piece:
        yield bytes(piece)


class LogHandler(logging.StreamHandler[TextIO]):
    """Write each event as one line, in order: in the thread of a LogWriter if the stream has a descriptor.

    A killed process loses the lines of the last PACE_S.
    """

    lock: threading.RLock
    """Narrowed, because `createLock` always sets it."""

    def __init__(self, stream: TextIO, line: LogFormatter, writer: LogWriter | None = None) -> None:
        """`writer` is the one of an earlier handler for the same stream."""
        super().__init__(stream)
        self.setFormatter(line)
        self._line = line
        self._heads: dict[tuple[int, str], str] = {}
        self.writer = writer
        if writer is None:
            with suppress(OSError, ValueError, AttributeError):  # no descriptor, such as that of a text in memory
                self.writer = LogWriter(stream.fileno(), stream.encoding or "utf-8")
        if self.writer is not None:
            own = copy(line)  # a formatter keeps state, and the writer's thread has its own
            head = own.head(logging.WARNING, "log_lines_dropped")
            self.writer.notice = lambda count: own.format_event(time.time(), head, {"count": count})

    def handle(self, record: logging.LogRecord) -> bool:
        with self.lock:  # without the base class's filters: there are none
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record of any library, whose arguments may not fit its message
            self.handleError(record)
        else:
            self._put(line, is_reserved=record.name.startswith(ROOT) and record.msg not in OF_REQUESTS)

    def emit_event(self, level: int, event: str, fields: Fields, texts: str | None = None) -> None:
        """Log one event (`texts`: see `emit`). An error in formatting or writing it fails no request."""
        head = self._heads.get((level, event))
        if head is None:  # there are few events, so each head is kept
            head = self._heads[level, event] = self._line.head(level, event)
        self.lock.acquire()  # `with` takes 1,000 instructions more
        try:
            self._put(self._line.format_event(time.time(), head, fields, texts), is_reserved=event not in OF_REQUESTS)
        except ValueError:  # a number with more digits than Python converts to text
            self.handleError(logging.makeLogRecord({"msg": event}))
        finally:
            self.lock.release()

    def flush(self) -> None:
        """Wait up to FLUSH_S until the lines are written. `logging.shutdown` calls this."""
        if self.writer is not None:
            self.writer.flush(FLUSH_S)
        elif not self.stream.closed:
            self.stream.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - what logging calls has logging's name
        """Report the error masked. The base class shows the arguments of a record, which may be secrets."""
        if logging.raiseExceptions and sys.stderr is not None:
            fault = f"--- Logging error ---\n{traceback.format_exc()}Message: {record.msg!r} {record.args!r}"
            if self.writer is not None:
                self.writer.put(self._line.masked(fault), is_reserved=False)
                return
            with suppress(OSError, ValueError):  # stderr may be full or closed
                sys.stderr.write(self._line.masked(fault) + "\n")

    def _put(self, line: str, *, is_reserved: bool) -> None:
        if self.writer is not None:
            self.writer.put(line, is_reserved=is_reserved)
            return
        try:
            self.stream.write(line + "\n")
            self.stream.flush()
        except (OSError, ValueError):  # such as a closed stream
            self.handleError(logging.makeLogRecord({"msg": line}))


def dropped_lines() -> int:
    """Return how many lines of the log this process has dropped."""
    handlers = [one for one in logging.root.handlers if isinstance(one, LogHandler)]
    return sum(one.writer.dropped for one in handlers if one.writer is not None)


FOREIGN_LEVEL = logging.WARNING
"""The level for libraries. At DEBUG an HTTP client logs the headers that it sends."""


def configure(level: str, style: str | None, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send each logger of the process through one masking handler on stderr.

    `style` None: text if the stream is a terminal, else JSON.
    """
    stream = stream or sys.stderr
    style = style or ("text" if stream.isatty() else "json")
    root, writer = logging.getLogger(), None
    for old in list(root.handlers):
        if isinstance(old, LogHandler) and old.stream is stream:
            writer = old.writer  # one thread writes all lines of the process, in their order
        root.removeHandler(old)
    root.addHandler(LogHandler(stream, LogFormatter(redactor, style), writer))
    root.setLevel(FOREIGN_LEVEL)
    logging.getLogger(ROOT).setLevel(level.upper())
    # Do not collect what no line shows ("Optimization" in the logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - the documented switch


def emit(logger: logging.Logger, level: int, event: str, fields: Fields, texts: str | None = None) -> None:
    """Log `event` with its fields. A field that is None is left out.

    `texts` holds all texts of the fields, without the names and numbers: a search for secrets is faster in it.
    """
    if not logger.isEnabledFor(level):
        return
    handlers = logging.root.handlers
    # Without other handlers no LogRecord is made: with its way through the loggers it takes 6 µs, more than the line.
    if len(handlers) == 1 and isinstance(handler := handlers[0], LogHandler) and not logger.handlers:
        handler.emit_event(level, event, listed(fields) if isinstance(fields, dict) else fields, texts)
        return
    record = {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    logger.handle(logging.makeLogRecord({**record, "fields": listed(fields)}))
