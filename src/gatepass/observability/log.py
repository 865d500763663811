"""Write log events as JSON or text lines, with known secrets masked."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from logging.handlers import QueueListener
from math import floor, isfinite
from queue import SimpleQueue
from typing import Any, TextIO

import msgspec

from gatepass.observability.redaction import Redactor

Fields = dict[str, Any] | msgspec.Struct
"""A struct leaves out fields with their default (`omit_defaults`)."""

ROOT = "gatepass"
_LEVELS = {logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}

_MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))
"""Prepared endings of a time."""
_JSON = msgspec.json.Encoder(enc_hook=str)
_JSON_TEXT = json.JSONEncoder(ensure_ascii=False, default=str)


def _json_head(level: str, event: str) -> str:
    try:
        quoted = _JSON.encode(event).decode()
    except UnicodeEncodeError:
        quoted = json.dumps(event)
    return f'","level":"{level}","event":{quoted}'


def printable(text: str) -> str:
    """Return `text` with its control characters as escapes of JSON."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _json_fields(fields: Fields) -> str:
    try:
        encoded = _JSON.encode(fields).decode()
    except UnicodeEncodeError:  # clients send half a surrogate pair, which msgspec cannot encode
        encoded = json.dumps(listed(fields), separators=(",", ":"), default=str)
    if not encoded.isascii():  # msgspec escapes no control characters beyond ASCII
        encoded = printable(encoded)
    return "," + encoded[1:] if encoded != "{}" else "}"


def _text_fields(fields: Fields, prefix: str = "") -> str:
    """Write nested fields as `usage.total_tokens=3`. Names are quoted like values, so that none can fake another."""
    named = {f"{prefix}{_plain(name)}": value for name, value in listed(fields).items()}
    texts = [
        _text_fields(value, f"{name}.") if isinstance(value, dict) else f" {name}={_plain(value)}"
        for name, value in named.items()
    ]
    return "".join(texts)


_STYLES = {"json": ('{"ts":"', _json_head, _json_fields), "text": ("", " {:<7} {}".format, _text_fields)}
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
    kind = type(value)
    if kind is int or (kind is float and isfinite(value)):  # what `encode` would return
        return repr(value)
    if kind is not str and isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = value if isinstance(value, str) else _JSON_TEXT.encode(value)
    if text.isprintable():
        return _JSON_TEXT.encode(text) if " " in text or '"' in text or "=" in text else text
    return json.dumps(text)  # in ASCII, because a path may hold control sequences for a terminal


QUEUE_CHARS = 1024 * 1024
"""Lines that wait while no process reads the log."""
PACE_S = 0.01
"""The thread writes the lines of this time together."""
FLUSH_S = 2.0
"""How long the exit waits for the log's reader."""


class LogListener(QueueListener):
    """Writes queued lines in its thread, so that no request waits for the log's reader.

    Only the thread that logs changes `_put_chars`, and only the listener's changes `_taken_chars`.
    """

    queue: SimpleQueue[str]

    def __init__(self, stream: TextIO, line: LogFormatter) -> None:
        super().__init__(SimpleQueue[str]())
        self._stream, self._line = stream, line
        self._descriptor: int | None = None
        with suppress(OSError, ValueError, AttributeError):  # no descriptor, such as that of a text in memory
            self._descriptor = stream.fileno()
        self._put_chars = self._taken_chars = 0
        self._unqueued = self._unwritten = self._reported = 0
        self.start()

    @property
    def dropped(self) -> int:
        """Lines that did not fit into the queue, or could not be written."""
        return self._unqueued + self._unwritten

    @property
    def is_idle(self) -> bool:
        """Whether all lines are written."""
        return self._put_chars == self._taken_chars

    def put(self, line: str) -> None:
        """Queue `line`, after a line that counts those that were lost before. Drop it if too many lines wait."""
        if self._put_chars - self._taken_chars + len(line) > QUEUE_CHARS:
            self._unqueued += 1
            return
        if count := self._unqueued + self._unwritten - self._reported:  # `dropped`, without a call for each line
            self._reported += count
            head = self._line.head(logging.WARNING, "log_lines_dropped")
            line = f"{self._line.format_event(time.time(), head, {'count': count})}\n{line}"
        self._put_chars += len(line)
        self.queue.put(line)

    def handle(self, record: Any) -> None:
        """Write the line `record`, and all that wait behind it."""
        lines = [record]
        while not self.queue.empty():
            lines.append(self.queue.get())
        try:
            self._write("".join(f"{line}\n" for line in lines))
        except (OSError, ValueError):  # such as a full disk, a closed stream, or a reader that has closed the pipe
            self._unwritten += len(lines)
        self._taken_chars += sum(map(len, lines))
        time.sleep(PACE_S)

    def flush(self) -> None:
        """Wait up to FLUSH_S until all lines are written."""
        until_s = time.monotonic() + FLUSH_S
        while not self.is_idle and time.monotonic() < until_s:
            time.sleep(PACE_S / 10)

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        # stderr writes a character that its encoding lacks as an escape
        left = memoryview(text.encode(self._stream.encoding or "utf-8", "backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another program has made the shared pipe non-blocking
                time.sleep(PACE_S)


class LogHandler(logging.Handler):
    """Formats each event as one line, in order, for the LogListener of `stream`.

    A killed process loses the lines of the last PACE_S.
    """

    lock: threading.RLock
    """Narrowed, because `createLock` always sets it."""

    def __init__(self, stream: TextIO, line: LogFormatter, listener: LogListener | None = None) -> None:
        """`listener` is the one of an earlier handler for the same stream."""
        super().__init__()
        self.setFormatter(line)
        self.stream, self._line = stream, line
        self._heads: dict[tuple[int, str], str] = {}
        self.listener = listener or LogListener(stream, line)

    def handle(self, record: logging.LogRecord) -> bool:
        with self.lock:  # without the base class's filters: there are none
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.listener.put(self.format(record))
        except Exception:  # noqa: BLE001 - a record of any library, whose arguments may not fit its message
            self.handleError(record)

    def emit_event(self, level: int, event: str, fields: Fields, texts: str | None = None) -> None:
        """Log one event (`texts`: see `emit`). An error in formatting it fails no request."""
        head = self._heads.get((level, event))
        if head is None:  # there are few events, so each head is kept
            head = self._heads[level, event] = self._line.head(level, event)
        self.lock.acquire()  # cheaper than `with`, for each line
        try:
            self.listener.put(self._line.format_event(time.time(), head, fields, texts))
        except ValueError:  # a number with more digits than Python converts to text
            self.handleError(logging.makeLogRecord({"msg": event}))
        finally:
            self.lock.release()

    def flush(self) -> None:
        """Wait until the lines are written. `logging.shutdown` calls this."""
        self.listener.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - what logging calls has logging's name
        """Report the error masked. The base class shows the arguments of a record, which may be secrets."""
        if logging.raiseExceptions:
            fault = f"--- Logging error ---\n{traceback.format_exc()}Message: {record.msg!r} {record.args!r}"
            self.listener.put(self._line.masked(fault))


def dropped_lines() -> int:
    """Return how many lines of the log this process has dropped."""
    handlers = [one for one in logging.root.handlers if isinstance(one, LogHandler)]
    return sum(one.listener.dropped for one in handlers)


FOREIGN_LEVEL = logging.WARNING
"""The level for libraries. At DEBUG an HTTP client logs the headers that it sends."""


def configure(level: str, style: str | None, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send each logger of the process through one masking handler on stderr.

    `style` None: text if the stream is a terminal, else JSON.
    """
    stream = stream or sys.stderr
    style = style or ("text" if stream.isatty() else "json")
    root, listener = logging.getLogger(), None
    for old in list(root.handlers):
        if isinstance(old, LogHandler) and old.stream is stream:
            listener = old.listener  # one thread writes all lines of the process, in their order
        root.removeHandler(old)
    root.addHandler(LogHandler(stream, LogFormatter(redactor, style), listener))
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
    # without other handlers no LogRecord is made: with its way through the loggers it costs more than the line
    if len(handlers) == 1 and isinstance(handler := handlers[0], LogHandler) and not logger.handlers:
        handler.emit_event(level, event, listed(fields) if isinstance(fields, dict) else fields, texts)
        return
    record = {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    logger.handle(logging.makeLogRecord({**record, "fields": listed(fields)}))
