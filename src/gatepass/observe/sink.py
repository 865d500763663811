"""Where the log's lines go out: those of one turn of the event loop together.

Whoever reads a container's log sleeps at the other end of a pipe, and each write wakes it, which takes the kernel
longer than all else that a line costs: 64 chats at a time took 130 µs of CPU each in the place of 112 (Xeon, virtual
cores; `gatepass-piped` of the benchmark).
"""

from __future__ import annotations

import asyncio
import logging
import select
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TextIO

from gatepass.observe.line import Fields, Line

WRITE_BYTES = select.PIPE_BUF
"""A write of up to this size is never mixed with another process's, such as another worker's (pipe(7)): 4 KiB."""


class Sink(logging.StreamHandler[TextIO]):
    """A line of what goes well waits until the loop's turn is over; from `warning` up, and where no loop runs, all goes
    out at once. Lines stay in order. A process that is killed loses those of the turn that it is in.
    """

    lock: threading.RLock
    """Never None: `createLock` makes it."""

    def __init__(self, stream: TextIO, line: Line) -> None:
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

    def tell(self, level: int, event: str, fields: Fields) -> None:
        """Log one event. One that cannot be written out, and a stream that takes no line, fail no request: logging
        tells of them, as of any record.

        Events are few and come often, so each one's head is kept.
        """
        head = self._heads.get((level, event))
        if head is None:
            head = self._heads[level, event] = self._line.head(level, event)
        self.lock.acquire()  # no `with`: it takes 1,000 instructions more
        try:
            self._waiting.append(self._line.told(time.time(), head, fields))
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
                self._put(piece)

    def _put(self, piece: str) -> None:
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
