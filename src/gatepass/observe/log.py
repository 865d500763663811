"""Log lines: the event's name first, fields as data, every line masked on its way out."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from gatepass.observe.redaction import Redactor

ROOT = "gatepass"
FOREIGN_LEVEL = logging.WARNING
"""Libraries speak from here up: at DEBUG an HTTP client prints the headers it sends."""


class Line(logging.Formatter):
    """One record as one line: `{"ts", "level", "event", …fields}` or `time level event key=value …`."""

    def __init__(self, redactor: Redactor, style: str) -> None:
        super().__init__()
        self._redactor = redactor
        self._write = _as_json if style == "json" else _as_text

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if not record.name.startswith(ROOT):
            fields["logger"] = record.name
        fields.update(getattr(record, "fields", {}))
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self._redactor.mask(self._write(fields))


def configure(level: str, style: str, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send every logger of the process through one masked handler on stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
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


def emit(logger: logging.Logger, level: int, event: str, fields: Mapping[str, Any]) -> None:
    """Log `event` with its fields; a field that is None says nothing and is left out."""
    if logger.isEnabledFor(level):
        said = {name: value for name, value in fields.items() if value is not None}
        logger.log(level, event, extra={"fields": said})


def _timestamp(created_s: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created_s))
    return f"{whole}.{int(created_s % 1 * 1000):03d}Z"


def _as_json(fields: Mapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(fields, enc_hook=str).decode()
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
