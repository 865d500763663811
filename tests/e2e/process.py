"""A subprocess of the tests: says when it is ready, keeps its last lines, and is ended by its own pid."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

KEPT_LINES = 500
STOP_S = 20.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent() -> None:
    """No server outlives a test run that was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """`command`, running, with stdout and stderr as one list of lines."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stdin: Path | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._news = threading.Condition()
        self._ended = False
        with (stdin or Path("/dev/null")).open("rb") as source:
            self._popen = subprocess.Popen(
                self.command,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=folder,
                preexec_fn=_die_with_parent,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """Its last lines."""
        with self._news:
            return "\n".join(self._lines)

    def wait_for(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """The first line that `pattern` is found in.

        Raises AssertionError with the output when the process ends or `timeout_s` passes before.
        """
        found: list[re.Match[str]] = []

        def settled() -> bool:
            found.extend(match for line in self._lines if (match := re.search(pattern, line)))
            return bool(found) or self._ended

        with self._news:
            self._news.wait_for(settled, timeout_s)
        if not found:
            raise AssertionError(f"no {pattern!r} within {timeout_s} s from {self.command}:\n{self.output}")
        return found[0]

    def stop(self) -> int:
        """End it as an operator would, or by force after STOP_S; returns its exit code."""
        self._popen.terminate()
        try:
            return self._popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait(STOP_S)
        finally:
            self._reader.join(STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as pipe:
            for raw in pipe:
                with self._news:
                    self._lines.append(raw.decode(errors="replace").rstrip())
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
