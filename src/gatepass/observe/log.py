"""Log lines: the event's name first, fields as data, every line masked on its way out."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TextIO

import msgspec

from gatepass.observe.redaction import Redactor

Fields = Mapping[str, Any] | msgspec.Struct
"""A struct leaves out what is None by itself (`omit_defaults`)."""

ROOT = "gatepass"
_LEVELS = MappingProxyType({logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"})
FOREIGN_LEVEL = logging.WARNING
"""Libraries speak from here up: at DEBUG an HTTP client prints the headers it sends."""


class Line(logging.Formatter):
    """One record as one line: `{"ts", "level", "event", …fields}` or `time level event key=value …`.

    `worker` is the number of this process where it is one of several: it stands in each line, before the fields.
    """

    def __init__(self, redactor: Redactor, style: str, worker: int | None = None) -> None:
        super().__init__()
        self._redactor = redactor
        self._worker = worker
        self._write = _as_json if style == "json" else _as_text
        self._second, self._said = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {} if record.name.startswith(ROOT) else {"logger": record.name}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self.told(record.created, record.levelno, record.getMessage(), fields)

    def told(self, created_s: float, level: int, event: str, fields: Fields) -> str:
        """One event as its line."""
        named = _LEVELS.get(level) or logging.getLevelName(level).lower()
        return self._redactor.mask(self._write(self._timestamp(created_s), named, event, self._worker, fields))

    def _timestamp(self, created_s: float) -> str:
        """Lines come many to a second, and a second is put into words once."""
        second = int(created_s)
        if second != self._second:
            self._second, self._said = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._said}.{int(created_s % 1 * 1000):03d}Z"


def configure(
    level: str, style: str, redactor: Redactor, stream: TextIO | None = None, worker: int | None = None
) -> None:
    """Send every logger of the process through one masked handler on stderr; each line names the `worker`."""
    handler = _Sink(stream or sys.stderr, Line(redactor, style, worker))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(FOREIGN_LEVEL)
    logging.getLogger(ROOT).setLevel(level.upper())
    # the standard library's own switches ("Optimization" in its logging HOWTO): nothing here shows these
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as the HOWTO says


class _Sink(logging.StreamHandler[TextIO]):
    """logging's own asks for filters, of which there are none, and takes its lock twice for each line."""

    def __init__(self, stream: TextIO, line: Line) -> None:
        super().__init__(stream)
        self.setFormatter(line)
        self._line = line

    def handle(self, record: logging.LogRecord) -> bool:
        self.acquire()
        try:
            self.emit(record)
        finally:
            self.release()
        return True

    def tell(self, level: int, event: str, fields: Fields) -> None:
        """Write one event. A stream that takes no line fails no request: logging tells of it, as of any record."""
        self.acquire()
        try:
            self.stream.write(self._line.told(time.time(), level, event, fields) + "\n")
            self.stream.flush()
        except (OSError, ValueError):
            self.handleError(logging.makeLogRecord({"msg": event}))
        finally:
            self.release()

    def flush(self) -> None:
        self.stream.flush()


def emit(logger: logging.Logger, level: int, event: str, fields: Fields) -> None:
    """Log `event` with its fields; a field that is None says nothing and is left out.

    Where nobody else listens it goes straight to the sink: a record, and its way up through the loggers and the
    handler, cost more than the line itself, 6 µs of a request.
    """
    if not logger.isEnabledFor(level):
        return
    sink = _only_sink(logger)
    if sink is not None:
        sink.tell(level, event, fields if isinstance(fields, msgspec.Struct) else _listed(fields))
        return
    told = {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    logger.handle(logging.makeLogRecord({**told, "fields": _listed(fields)}))


def _only_sink(logger: logging.Logger) -> _Sink | None:
    """The sink, where nobody else listens."""
    handlers = logging.root.handlers
    is_alone = len(handlers) == 1 and not logger.handlers
    return handlers[0] if is_alone and isinstance(handlers[0], _Sink) else None


_JSON = msgspec.json.Encoder(enc_hook=str)


def _as_json(ts: str, level: str, event: str, worker: int | None, fields: Fields) -> str:
    try:
        head = b'{"ts":"%b","level":"%b","event":%b' % (ts.encode(), level.encode(), _JSON.encode(event))
        if worker is not None:
            head += b',"worker":%d' % worker
        rest = _JSON.encode(fields)
        return (b"%b,%b" % (head, rest[1:]) if rest != b"{}" else head + b"}").decode()
    except UnicodeEncodeError:  # half a surrogate pair, which clients do send
        said = _listed({"ts": ts, "level": level, "event": event, "worker": worker}) | _listed(fields)
        return json.dumps(said, separators=(",", ":"), default=str)


def _as_text(ts: str, level: str, event: str, worker: int | None, fields: Fields) -> str:
    rest = (f"{name}={_plain(value)}" for name, value in (_listed({"worker": worker}) | _listed(fields)).items())
    return " ".join([f"{ts} {level:<7} {event}", *rest])


def _listed(fields: Fields) -> dict[str, Any]:
    named = msgspec.structs.asdict(fields) if isinstance(fields, msgspec.Struct) else fields
    return {name: value for name, value in named.items() if value is not None}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if text.isprintable():
        return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ' "=') else text
    return json.dumps(text)  # in ASCII: a path may hold what a terminal obeys
