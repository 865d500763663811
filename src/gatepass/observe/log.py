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

ROOT = "gatepass"
_LEVELS = MappingProxyType({logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"})
FOREIGN_LEVEL = logging.WARNING
"""Libraries speak from here up: at DEBUG an HTTP client prints the headers it sends."""


class Line(logging.Formatter):
    """One record as one line: `{"ts", "level", "event", …fields}` or `time level event key=value …`."""

    def __init__(self, redactor: Redactor, style: str) -> None:
        super().__init__()
        self._redactor = redactor
        self._write = _as_json if style == "json" else _as_text
        self._second, self._said = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "ts": self._timestamp(record.created),
            "level": _LEVELS.get(record.levelno) or record.levelname.lower(),
            "event": record.getMessage(),
        }
        if not record.name.startswith(ROOT):
            fields["logger"] = record.name
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self._redactor.mask(self._write(fields))

    def _timestamp(self, created_s: float) -> str:
        """Lines come many to a second, and a second is put into words once."""
        second = int(created_s)
        if second != self._second:
            self._second, self._said = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._said}.{int(created_s % 1 * 1000):03d}Z"


def configure(level: str, style: str, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send every logger of the process through one masked handler on stderr."""
    handler = _Sink(stream or sys.stderr)
    handler.setFormatter(Line(redactor, style))
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

    def handle(self, record: logging.LogRecord) -> bool:
        self.acquire()
        try:
            self.emit(record)
        finally:
            self.release()
        return True

    def flush(self) -> None:
        self.stream.flush()


def emit(logger: logging.Logger, level: int, event: str, fields: Mapping[str, Any]) -> None:
    """Log `event` with its fields; a field that is None says nothing and is left out."""
    if logger.isEnabledFor(level):
        logger.handle(_Told(logger.name, level, event, {k: v for k, v in fields.items() if v is not None}))


class _Told(logging.LogRecord):
    """A record of `emit`, without what nothing here shows: logging's own works out its caller's file, its
    process and its thread, for 3 µs a request."""

    def __init__(self, name: str, level: int, event: str, fields: dict[str, Any]) -> None:
        self.__dict__.update(_UNTOLD)
        self.name, self.levelno, self.levelname = name, level, logging.getLevelName(level)
        self.msg, self.fields = event, fields
        self.created = time.time()
        self.msecs = self.created % 1 * 1000


_UNTOLD: Mapping[str, Any] = vars(logging.makeLogRecord({"filename": "log.py", "module": "log"}))


_JSON = msgspec.json.Encoder(enc_hook=str)


def _as_json(fields: Mapping[str, Any]) -> str:
    try:
        return _JSON.encode(fields).decode()
    except UnicodeEncodeError:  # half a surrogate pair, which clients do send
        return json.dumps(fields, separators=(",", ":"), default=str)


def _as_text(fields: Mapping[str, Any]) -> str:
    head = f"{fields['ts']} {fields['level']:<7} {fields['event']}"
    rest = (
        f"{name}={_plain(value)}"
        for name, value in fields.items()
        if name not in ("ts", "level", "event") and value is not None
    )
    return " ".join([head, *rest])


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ' "=\n\r') else text
