"""Write log events as JSON or text lines, with known secrets masked."""

from __future__ import annotations

import asyncio
import json
import logging
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from math import floor
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

import msgspec

from gatepass.observability.redaction import Redactor

Fields = dict[str, Any] | msgspec.Struct
"""A struct leaves out fields with their default (`omit_defaults`)."""

ROOT = "gatepass"
_LEVELS = MappingProxyType({logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"})

_MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))
"""Prepared endings of a time: formatting a number takes 0.5 µs, a tenth of the line."""
_JSON = msgspec.json.Encoder(enc_hook=str)


class _Style(NamedTuple):
    opening: str
    head: Callable[[str, str, int | None], str]
    fields: Callable[[Fields], str]


def _json_head(level: str, event: str, worker: int | None) -> str:
    try:
        quoted = _JSON.encode(event).decode()
    except UnicodeEncodeError:
        quoted = json.dumps(event)
    return f'","level":"{level}","event":{quoted}' + ("" if worker is None else f',"worker":{worker}')


def _json_fields(fields: Fields) -> str:
    try:
        encoded = _JSON.encode(fields).decode()
    except UnicodeEncodeError:  # clients send half a surrogate pair, which msgspec cannot encode
        encoded = json.dumps(listed(fields), separators=(",", ":"), default=str)
    if not (encoded.isascii() or encoded.isprintable()):  # msgspec escapes no control characters beyond ASCII
        encoded = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in encoded)
    return "," + encoded[1:] if encoded != "{}" else "}"


def _text_head(level: str, event: str, worker: int | None) -> str:
    return f" {level:<7} {event}" + ("" if worker is None else f" worker={worker}")


def _text_fields(fields: Fields, prefix: str = "") -> str:
    """Write nested fields as `usage.total_tokens=3`. Names are quoted like values, so that none can fake another."""
    named = {f"{prefix}{_plain(name)}": value for name, value in listed(fields).items()}
    return "".join(
        _text_fields(value, f"{name}.") if isinstance(value, dict) else f" {name}={_plain(value)}"
        for name, value in named.items()
    )


_IN_JSON = _Style('{"ts":"', _json_head, _json_fields)
_IN_TEXT = _Style("", _text_head, _text_fields)


class LogFormatter(logging.Formatter):
    """Format a record as one line: `{"ts", "level", "event", …fields}` or `time level event key=value …`."""

    def __init__(self, redactor: Redactor, style: str, worker: int | None = None) -> None:
        super().__init__()
        self._redactor = redactor
        self._worker = worker
        self._opening, self._format_head, self._format_fields = _IN_JSON if style == "json" else _IN_TEXT
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
        return self._format_head(level_name, event, self._worker)

    def format_event(self, created_s: float, head: str, fields: Fields, texts: str | None = None) -> str:
        """Return the line of one event. `texts`: see `emit`."""
        line = f"{self._time(created_s)}{head}{self._format_fields(fields)}"
        return line if texts is not None and not self._redactor.holds(texts) else self._redactor.mask(line)

    def _time(self, created_s: float) -> str:
        past_s = created_s - self._second
        if not 0 <= past_s < 1:  # each second is formatted once, for all of its lines
            self._second = second = int(created_s)
            self._second_text = self._opening + time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            past_s = created_s - second
        return self._second_text + _MILLISECONDS[floor(past_s * 1000)]


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
"""The kernel does not interleave writes of up to this size, 4 KiB, with those of other workers (pipe(7))."""


class LogHandler(logging.StreamHandler[TextIO]):
    """Write the lines of one turn of the event loop together.

    From `warning` up, and outside an event loop, lines are written at once. Lines stay in order. A killed process loses
    the lines of its current turn.
    """

    lock: threading.RLock
    """Narrowed, because `createLock` always sets it."""

    def __init__(self, stream: TextIO, line: LogFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(line)
        self._line = line
        self._heads: dict[tuple[int, str], str] = {}
        self._waiting: list[str] = []
        self._due: asyncio.AbstractEventLoop | None = None
        """The loop that writes the waiting lines at the end of its turn."""
        self._due_thread = 0

    def handle(self, record: logging.LogRecord) -> bool:
        with self.lock:  # without the base class's filters: there are none
            self._write()
            self.emit(record)
        return True

    def emit_event(self, level: int, event: str, fields: Fields, texts: str | None = None) -> None:
        """Log one event (`texts`: see `emit`). An error in formatting or writing it fails no request."""
        head = self._heads.get((level, event))
        if head is None:  # there are few events, so each head is kept
            head = self._heads[level, event] = self._line.head(level, event)
        self.lock.acquire()  # `with` takes 1,000 instructions more
        try:
            self._waiting.append(self._line.format_event(time.time(), head, fields, texts))
            if level >= logging.WARNING or not self._is_due():
                self._write()
        except ValueError:  # a number with more digits than Python converts to text
            self.handleError(logging.makeLogRecord({"msg": event}))
        finally:
            self.lock.release()

    def flush(self) -> None:
        """Write the waiting lines. `logging.shutdown` calls this too."""
        with self.lock:
            self._write()
            self.stream.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - what logging calls has logging's name
        """Report the error masked. The base class shows the arguments of a record, which may be secrets."""
        if logging.raiseExceptions and sys.stderr is not None:
            fault = f"--- Logging error ---\n{traceback.format_exc()}Message: {record.msg!r} {record.args!r}\n"
            with suppress(OSError, ValueError):  # stderr may be full or closed
                sys.stderr.write(self._line.masked(fault))

    def _is_due(self) -> bool:
        """Return whether the running loop writes the waiting lines at the end of its turn."""
        due, thread = self._due, threading.get_ident()
        if due is not None and self._due_thread == thread and due.is_running():
            return True  # nearly always under load: `get_running_loop` reads the process id from the kernel
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no event loop runs in this thread
            return False
        if self._due is not loop:
            self._due, self._due_thread = loop, thread
            loop.call_soon(self._end_turn)
        return True

    def _end_turn(self) -> None:
        with self.lock:
            self._due = None
            self._write()

    def _write(self) -> None:
        if self._waiting:
            lines, self._waiting = self._waiting, []
            text = "\n".join((*lines, ""))
            # nearly always one write, in one piece
            for piece in (text,) if len(text) <= WRITE_BYTES and text.isascii() else self._pieces(lines):
                try:
                    self.stream.write(piece)
                    self.stream.flush()
                except (OSError, ValueError):  # such as a full disk or a closed stream
                    self.handleError(logging.makeLogRecord({"msg": piece}))

    def _pieces(self, lines: Iterable[str]) -> Iterator[str]:
        """Join `lines` to pieces of at most WRITE_BYTES. A longer line becomes one piece."""
        piece, size_bytes = "", 0
        encoding = self.stream.encoding or "utf-8"
        for line in lines:
            # stderr writes a character that its encoding lacks as an escape
            line_bytes = 1 + (len(line) if line.isascii() else len(line.encode(encoding, "backslashreplace")))
            if piece and size_bytes + line_bytes > WRITE_BYTES:
                yield piece
                piece, size_bytes = "", 0
            piece += line + "\n"
            size_bytes += line_bytes
        if piece:
            yield piece


FOREIGN_LEVEL = logging.WARNING
"""The level for libraries. At DEBUG an HTTP client logs the headers that it sends."""


def configure(
    level: str, style: str | None, redactor: Redactor, stream: TextIO | None = None, worker: int | None = None
) -> None:
    """Send each logger of the process through one masking handler on stderr. Each line names the `worker`.

    `style` None: text if the stream is a terminal, else JSON.
    """
    stream = stream or sys.stderr
    style = style or ("text" if stream.isatty() else "json")
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(LogHandler(stream, LogFormatter(redactor, style, worker)))
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
