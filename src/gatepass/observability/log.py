"""Who writes the log, what an event looks like in it, and how its lines go out."""

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
"""A struct leaves out what has its default by itself (`omit_defaults`)."""

ROOT = "gatepass"
_LEVELS = MappingProxyType({logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"})

_MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))
"""How a time ends: to format a number takes half a microsecond, a tenth of its line."""
_JSON = msgspec.json.Encoder(enc_hook=str)


class _Style(NamedTuple):
    """How a line is written: its opening, its time, then its head, then the rest."""

    opening: str
    head: Callable[[str, str, int | None], str]
    rest: Callable[[Fields], str]


def _json_head(level: str, event: str, worker: int | None) -> str:
    try:
        quoted = _JSON.encode(event).decode()
    except UnicodeEncodeError:
        quoted = json.dumps(event)
    return f'","level":"{level}","event":{quoted}' + ("" if worker is None else f',"worker":{worker}')


def _json_rest(fields: Fields) -> str:
    try:
        told = _JSON.encode(fields).decode()
    except UnicodeEncodeError:  # half a surrogate pair, which clients do send
        told = json.dumps(listed(fields), separators=(",", ":"), default=str)
    return "," + told[1:] if told != "{}" else "}"


def _text_head(level: str, event: str, worker: int | None) -> str:
    return f" {level:<7} {event}" + ("" if worker is None else f" worker={worker}")


def _text_rest(fields: Fields, within: str = "") -> str:
    """A field that holds others comes as each of them, `usage.total_tokens=3`; no name can fake one of ours."""
    named = {f"{within}{_plain(name)}": value for name, value in listed(fields).items()}
    return "".join(
        _text_rest(value, f"{name}.") if isinstance(value, dict) else f" {name}={_plain(value)}"
        for name, value in named.items()
    )


_IN_JSON = _Style('{"ts":"', _json_head, _json_rest)
_IN_TEXT = _Style("", _text_head, _text_rest)


class LogFormatter(logging.Formatter):
    """One record as one line: `{"ts", "level", "event", …fields}` or `time level event key=value …`.

    `worker` is the number of this process where it is one of several: it stands in each line, before the fields.
    """

    def __init__(self, redactor: Redactor, style: str, worker: int | None = None) -> None:
        super().__init__()
        self._redactor = redactor
        self._worker = worker
        self._opening, self._words_head, self._words_rest = _IN_JSON if style == "json" else _IN_TEXT
        self._second, self._said = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {} if record.name.startswith(ROOT) else {"logger": record.name}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self.format_event(record.created, self.head(record.levelno, record.getMessage()), fields)

    def masked(self, text: str) -> str:
        """`text` of somebody else's, with no secret in it that is known."""
        return self._redactor.mask(text)

    def head(self, level: int, event: str) -> str:
        """What stands between a line's time and its fields."""
        named = _LEVELS.get(level) or logging.getLevelName(level).lower()
        return self._words_head(named, event, self._worker)

    def format_event(self, created_s: float, head: str, fields: Fields) -> str:
        """One event as its line."""
        return self._redactor.mask(f"{self._time(created_s)}{head}{self._words_rest(fields)}")

    def _time(self, created_s: float) -> str:
        """Lines come many to a second, and a second is put into words once."""
        past_s = created_s - self._second
        if not 0 <= past_s < 1:
            self._second = second = int(created_s)
            self._said = self._opening + time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            past_s = created_s - second
        return self._said + _MILLISECONDS[floor(past_s * 1000)]


def listed(fields: Fields) -> dict[str, Any]:
    """`fields` without those that say nothing, as a dict; a struct that one of them holds likewise."""
    if isinstance(fields, msgspec.Struct):
        named: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=str)
        return named
    told = {name: value for name, value in fields.items() if value is not None}
    return {name: listed(value) if isinstance(value, msgspec.Struct) else value for name, value in told.items()}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if text.isprintable():
        return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ' "=') else text
    return json.dumps(text)  # in ASCII: a path may hold what a terminal obeys


WRITE_BYTES = select.PIPE_BUF
"""A write of up to this size is never mixed with another process's, such as another worker's (pipe(7)): 4 KiB."""


class LogHandler(logging.StreamHandler[TextIO]):
    """A line of what goes well waits until the loop's turn is over; from `warning` up, and where no loop runs, all goes
    out at once. Lines stay in order. A process that is killed loses those of the turn that it is in.
    """

    lock: threading.RLock
    """Never None: `createLock` makes it."""

    def __init__(self, stream: TextIO, line: LogFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(line)
        self._line = line
        self._heads: dict[tuple[int, str], str] = {}
        self._waiting: list[str] = []
        self._due: asyncio.AbstractEventLoop | None = None
        """Whose turn ends with what waits being written."""

    def handle(self, record: logging.LogRecord) -> bool:
        """logging's own asks for filters, of which there are none."""
        with self.lock:
            self._write()
            self.emit(record)
        return True

    def emit_event(self, level: int, event: str, fields: Fields) -> None:
        """Log one event. One that cannot be written out, and a stream that takes no line, fail no request: logging
        tells of them, as of any record.

        Events are few and come often, so each one's head is kept.
        """
        head = self._heads.get((level, event))
        if head is None:
            head = self._heads[level, event] = self._line.head(level, event)
        self.lock.acquire()  # no `with`: it takes 1,000 instructions more
        try:
            self._waiting.append(self._line.format_event(time.time(), head, fields))
            if level >= logging.WARNING or not self._is_due():
                self._write()
        except ValueError:  # a number with too many digits for Python to write
            self.handleError(logging.makeLogRecord({"msg": event}))
        finally:
            self.lock.release()

    def flush(self) -> None:
        """Write what waits; logging's own end calls this, too."""
        with self.lock:
            self._write()
            self.stream.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - what logging calls has logging's name
        """logging's own shows what it was given as it is: the arguments of a record may be secrets."""
        if logging.raiseExceptions and sys.stderr is not None:
            fault = f"--- Logging error ---\n{traceback.format_exc()}Message: {record.msg!r} {record.args!r}\n"
            with suppress(OSError, ValueError):
                sys.stderr.write(self._line.masked(fault))

    def _is_due(self) -> bool:
        """Whether what waits is written when the turn of the loop that runs is over."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._due is not loop:
            self._due = loop
            loop.call_soon(self._turn_over)
        return True

    def _turn_over(self) -> None:
        with self.lock:
            self._due = None
            self._write()

    def _write(self) -> None:
        if self._waiting:
            lines, self._waiting = self._waiting, []
            for piece in self._pieces(lines):
                try:
                    self.stream.write(piece)
                    self.stream.flush()
                except (OSError, ValueError):
                    self.handleError(logging.makeLogRecord({"msg": piece}))

    def _pieces(self, lines: Iterable[str]) -> Iterator[str]:
        """`lines`, ended and joined to pieces of at most WRITE_BYTES; one that is longer goes alone."""
        piece, size_bytes = "", 0
        for line in lines:
            line_bytes = self._size_bytes(line) + 1
            if piece and size_bytes + line_bytes > WRITE_BYTES:
                yield piece
                piece, size_bytes = "", 0
            piece += line + "\n"
            size_bytes += line_bytes
        if piece:
            yield piece

    def _size_bytes(self, line: str) -> int:
        """As the stream encodes it; stderr writes what its encoding has not as an escape."""
        return len(line) if line.isascii() else len(line.encode(self.stream.encoding or "utf-8", "backslashreplace"))


FOREIGN_LEVEL = logging.WARNING
"""Libraries speak from here up: at DEBUG an HTTP client prints the headers it sends."""


def configure(
    level: str, style: str, redactor: Redactor, stream: TextIO | None = None, worker: int | None = None
) -> None:
    """Send every logger of the process through one masked handler on stderr; each line names the `worker`."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(LogHandler(stream or sys.stderr, LogFormatter(redactor, style, worker)))
    root.setLevel(FOREIGN_LEVEL)
    logging.getLogger(ROOT).setLevel(level.upper())
    # the standard library's own switches ("Optimization" in its logging HOWTO): nothing here shows these
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as the HOWTO says


def emit(logger: logging.Logger, level: int, event: str, fields: Fields) -> None:
    """Log `event` with its fields; a field that is None says nothing and is left out.

    Where nobody else listens it goes straight to the sink: a record, and its way up through the loggers and the
    handler, cost more than the line itself, 6 µs of a request.
    """
    if not logger.isEnabledFor(level):
        return
    handlers = logging.root.handlers
    if len(handlers) == 1 and isinstance(sink := handlers[0], LogHandler) and not logger.handlers:
        sink.emit_event(level, event, listed(fields) if isinstance(fields, dict) else fields)
        return
    told = {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    logger.handle(logging.makeLogRecord({**told, "fields": listed(fields)}))
