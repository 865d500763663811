"""Processes pinned to a core, and their CPU time and memory from /proc. Each is stopped by its own id."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self, cast

PR_SET_PDEATHSIG = 1
TERM_S = 6.0
KIB, MB = 1024, 1_000_000
NS_PER_S = 1_000_000_000
CLEAR_PEAK = "5"
"""proc(5), /proc/pid/clear_refs: resets the peak resident set (VmHWM)."""

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
"""The variables that a measured process inherits. Proxy and PYTHON variables are removed."""


class NotEnoughCores(Exception):
    pass


def cores() -> tuple[int, int]:
    """Return the core of the gateway and the core of the rig."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        raise NotEnoughCores("the rig needs two cores: one for the gateway, one for the upstream and the load")
    return mine[0], mine[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LogReader:
    """A process on `core` that copies `pipe` into `file`, like the log driver of a container.

    It ends when the other end of the pipe is closed.
    """

    def __init__(self, core: int, file: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            ["cat"],  # noqa: S607 - the machine's own, as are taskset and timeout
            stdin=subprocess.PIPE,
            stdout=file,
            start_new_session=True,  # Ctrl-C must not end it before the processes whose output it reads
            preexec_fn=lambda: _prepare(core),
        )
        self.pipe = cast(IO[bytes], self._process.stdin)

    def end(self) -> None:
        self.pipe.close()
        try:
            self._process.wait(TERM_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Child:
    """A process group pinned to one core. It ends with the `with` block, and with this process in any case.

    `reader_core`: the core of a LogReader that writes its output to the log.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        core: int,
        log: Path,
        env: Mapping[str, str] | None = None,
        reader_core: int | None = None,
    ) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.log = log
        with log.open("wb") as file, ExitStack() as started:
            self._reader = None if reader_core is None else LogReader(reader_core, file)
            if self._reader is not None:
                started.callback(self._reader.end)
            self._process = subprocess.Popen(
                [str(word) for word in command],
                env=inherited | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=file if self._reader is None else self._reader.pipe,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _prepare(core),
            )
            started.pop_all()
        if self._reader is not None:
            self._reader.pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        if not self.ended:
            self._end()
        if self._reader is not None:
            self._reader.end()

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(TERM_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self, lines: int = 1) -> str:
        """Return the end of its output."""
        output = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " ".join(line.strip() for line in output[-lines:])[-300:]


def _prepare(core: int) -> None:
    """Prepare the child before the program starts: pin it, raise its file limit, and end it with its parent."""
    os.sched_setaffinity(0, {core})
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def tree(pid: int) -> list[int]:
    """Return `pid` and its descendants."""
    found, pending = [], [pid]
    while pending:
        at = pending.pop()
        found.append(at)
        for children in Path(f"/proc/{at}/task").glob("*/children"):
            with suppress(OSError):
                pending += [int(child) for child in children.read_text().split()]
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU time in seconds, to the nanosecond. /proc/pid/stat counts in hundredths of a second."""
    total_ns = 0
    for pid in pids:
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total_ns += int(schedstat.read_text().split()[0])
    return total_ns / NS_PER_S


def kernel_and_user_ticks(pids: Sequence[int]) -> tuple[int, int]:
    """Return the CPU time in the kernel and in user space, in hundredths of a second."""
    kernel = user = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            user, kernel = user + int(fields[11]), kernel + int(fields[12])
    return kernel, user


def proportional_bytes(pids: Sequence[int]) -> int:
    """Return the proportional set size: a shared page counts in parts."""
    return sum(_field(f"/proc/{pid}/smaps_rollup", "Pss") for pid in pids)


def resident_bytes(pids: Sequence[int]) -> int:
    return sum(_field(f"/proc/{pid}/status", "VmRSS") for pid in pids)


def peak_bytes(pids: Sequence[int]) -> int:
    """Return the highest resident set since `clear_peak`."""
    return sum(_field(f"/proc/{pid}/status", "VmHWM") for pid in pids)


def clear_peak(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text(CLEAR_PEAK)


def open_files(pids: Sequence[int]) -> int:
    """Return the number of file descriptors, including sockets."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/fd"))
    return total


def _field(path: str, name: str) -> int:
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) * KIB if found else 0
    return 0
