"""A subprocess of the tests: waits for its output, keeps its last lines, and stops it by its pid.

`serve_answers` is what a scripted upstream runs in a process of its own.
"""

import asyncio
import ctypes
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.integration.scripted import Dialogue, Received, Scripted

KEPT_LINES = 500
STOP_S = 20.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent() -> None:
    """End the process if the test run is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """A running `command`, with stdout and stderr in one list of lines."""

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
        self._changed = threading.Condition()
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
        with self._changed:
            return "\n".join(self._lines)

    def wait_for(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """Return the first match of `pattern` in a line.

        Raise AssertionError with the output if the process ends or `timeout_s` passes before.
        """
        found: list[re.Match[str]] = []

        def settled() -> bool:
            found.extend(match for line in self._lines if (match := re.search(pattern, line)))
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(settled, timeout_s)
        if not found:
            raise AssertionError(f"no {pattern!r} within {timeout_s} s from {self.command}:\n{self.output}")
        return found[0]

    def stop(self) -> int:
        """Send SIGTERM, after STOP_S SIGKILL, and return the exit code."""
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
                with self._changed:
                    self._lines.append(raw.decode(errors="replace").rstrip())
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def serve_answers(answer: Callable[[Received], Dialogue]) -> None:
    """Serve on a free port, print the URL, and end at SIGTERM."""

    async def serve() -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        async with Scripted(answer=answer) as served:
            print(f"listening on {served.url}", flush=True)
            await stopped.wait()

    asyncio.run(serve())
