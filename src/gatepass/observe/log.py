"""Who writes the log, and how an event gets there. What a line looks like: `line`; how it goes out: `sink`."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from gatepass.observe.line import ROOT, Fields, Line, listed
from gatepass.observe.redaction import Redactor
from gatepass.observe.sink import Sink

FOREIGN_LEVEL = logging.WARNING
"""Libraries speak from here up: at DEBUG an HTTP client prints the headers it sends."""


def configure(
    level: str, style: str, redactor: Redactor, stream: TextIO | None = None, worker: int | None = None
) -> None:
    """Send every logger of the process through one masked handler on stderr; each line names the `worker`."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(Sink(stream or sys.stderr, Line(redactor, style, worker)))
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
    if len(handlers) == 1 and isinstance(sink := handlers[0], Sink) and not logger.handlers:
        sink.tell(level, event, listed(fields) if isinstance(fields, dict) else fields)
        return
    told = {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    logger.handle(logging.makeLogRecord({**told, "fields": listed(fields)}))
