"""Real programs, on both loops: bounded, killed with all their children, reaped, and no descriptor left open."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatepass.clock import Clock, SystemClock, Timer
from gatepass.config.credential.kinds import ExecCredential
from gatepass.observability.redaction import Redactor
from gatepass.tokens import FetchFailure, TokenHolder, WaitBudget
from gatepass.tokens.sources.exec import PIPE_CLOSE_S, STDERR_BYTES, STOP_S, ExecSource, ProcessResult, run
from tests.integration.tokens.programs import LOOPS, children, descriptors, in_group, lives, on, program
from tests.waiting import block_until, until

ENVIRONMENT = {"PATH": os.environ["PATH"]}
CLOCK = SystemClock()
RUN_S = 30.0
pytestmark = pytest.mark.parametrize("loop", LOOPS)


class HurriedClock(SystemClock):
    """The time of the system, but STOP_S passes at once, or `stop_s`."""

    def __init__(self, stop_s: float = 0.0) -> None:
        self.stop_s = stop_s
        self.stops = asyncio.Event()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        if delay_s != STOP_S:
            return super().call_later(delay_s, callback)
        self.stops.set()
        return super().call_later(self.stop_s, callback)


async def shell(
    script: str, limit_s: float = RUN_S, stderr: bytearray | None = None, clock: Clock = CLOCK
) -> ProcessResult:
    return await run(["sh", "-c", script], ENVIRONMENT, limit_s, 1000, bytearray() if stderr is None else stderr, clock)


def pid_in(file: Path) -> int:
    return int(block_until(lambda: file.exists() and file.read_text().strip()))


def gone(file: Path) -> None:
    pid = pid_in(file)
    block_until(lambda: not lives(pid))


def test_a_program_has_its_output_its_stderr_and_its_code(loop):
    stderr = bytearray()
    assert on(loop, shell("echo out; echo bad >&2; exit 3", stderr=stderr)) == ProcessResult(3, b"out\n")
    assert stderr == b"bad\n"


def test_program_has_no_input_and_only_its_configured_environment(loop):
    found = on(loop, run(["sh", "-c", "cat; env"], {**ENVIRONMENT, "A": "b c"}, RUN_S, 1000, bytearray(), CLOCK))
    names = {line.partition("=")[0] for line in found.stdout.decode().splitlines()}
    assert {"A", "PATH"} <= names <= {"A", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}


def test_no_shell_reads_the_arguments(loop):
    found = on(loop, run(["printf", "%s|", "$HOME", "a b", "`id`", ";"], ENVIRONMENT, RUN_S, 1000, bytearray(), CLOCK))
    assert found.stdout == b"$HOME|a b|`id`|;|"


def test_endless_output_kills_the_program(loop):
    found = on(loop, shell("yes", limit_s=1e6))
    assert (found.cut, found.code, children()) == (True, -9, [])


def test_endless_error_output_is_read_to_its_end(loop):
    stderr = bytearray()
    found = on(loop, shell("head -c 1000000 /dev/zero | tr '\\0' x >&2; echo last >&2", stderr=stderr))
    assert found.code == 0
    assert len(stderr) == STDERR_BYTES
    assert stderr.endswith(b"xlast\n")


def test_a_background_process_of_a_program_delays_no_fetch(loop, tmp_path):
    began_s = time.monotonic()
    found = on(loop, shell(f"sleep 3600 & echo $! > {tmp_path}/pid; echo out"))  # the test would wait for it too
    assert (found.code, found.stdout) == (0, b"out\n")
    assert time.monotonic() - began_s >= PIPE_CLOSE_S
    gone(tmp_path / "pid")


def test_out_of_time_it_dies_with_all_that_it_started(loop, tmp_path):
    with pytest.raises(TimeoutError):
        on(
            loop, shell(f"sleep 60 & echo $! > {tmp_path}/pid; trap '' TERM; sleep 60", limit_s=3.0)
        )  # it has begun by then
    gone(tmp_path / "pid")
    assert children() == []


@pytest.mark.parametrize("iterations", range(12))
def test_cancelled_at_any_time_it_leaves_no_process_and_no_descriptor(loop, iterations, tmp_path):
    async def work() -> None:
        await shell("true")  # what a loop opens for its first child, it keeps
        before = descriptors()
        task = asyncio.create_task(shell(f"echo $$ > {tmp_path}/pid; sleep 60", clock=HurriedClock()))
        for _ in range(iterations):
            await asyncio.sleep(0)
        if iterations > 8:
            await asyncio.to_thread(pid_in, tmp_path / "pid")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not children())
        if (tmp_path / "pid").exists() and (pid := (tmp_path / "pid").read_text()):
            await until(lambda: not in_group(int(pid)))
        await until(lambda: not [name for name in descriptors() - before if "pipe" in name or "socket" in name])

    on(loop, work())


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["there-is-no-such-program"], FileNotFoundError),
        (["./not-executable"], PermissionError),
        (["/"], PermissionError),
        (["ec\0ho"], ValueError),
    ],
)
def test_a_program_that_cannot_be_started_is_reported(loop, command, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "not-executable").write_text("#!/bin/sh\n")
    with pytest.raises(error):
        on(loop, run(command, ENVIRONMENT, RUN_S, 10, bytearray(), CLOCK))
    with pytest.raises(ValueError, match="NUL"):
        on(loop, run(["true"], {"A": "\0"}, RUN_S, 10, bytearray(), CLOCK))


def source(*command: str, clock: Clock = CLOCK, **more: Any) -> ExecSource:
    settings = {"type": "exec", "command": list(command), "timeout_s": 3600, **more}  # no machine is too busy for it
    return ExecSource("corp", ExecCredential.model_validate(settings), clock)


def test_a_program_is_found_by_the_path_of_its_own_environment(loop, tmp_path, monkeypatch):
    program(tmp_path, "print('abc')", "corp-login")
    with pytest.raises(FetchFailure, match="corp-login cannot be started: No such file or directory"):
        on(loop, source("corp-login").fetch())
    assert on(loop, source("corp-login", env={"PATH": str(tmp_path)}).fetch()).text == "abc"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert on(loop, source("corp-login").fetch()).text == "abc"


def test_a_second_cancellation_kills_the_program(loop):
    async def work() -> None:
        clock, stderr = HurriedClock(3600.0), bytearray()
        task = asyncio.create_task(shell("echo begun >&2; sleep 60", stderr=stderr, clock=clock))
        await until(lambda: stderr)  # else the first one may come while the program starts
        task.cancel()
        await clock.stops.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on(loop, work())
    assert children() == []


def test_a_holder_that_closes_lets_a_program_store_the_successor_of_a_used_refresh_token(loop, tmp_path):
    """Killed between the issuer's answer and the file, the login would be lost."""
    pipe, kept = tmp_path / "issuer", tmp_path / "refresh-token"
    os.mkfifo(pipe)
    path = program(tmp_path, f"open('{kept}', 'w').write(open('{pipe}').read())\nprint('abc')")

    async def work() -> None:
        clock = HurriedClock(STOP_S)
        holder = TokenHolder("corp", source(path, clock=clock), CLOCK, Redactor(), WaitBudget(10.0))
        holder.start()
        with await asyncio.to_thread(open, pipe, "w") as answer:  # waits for the program
            closing = asyncio.create_task(holder.aclose())
            await clock.stops.wait()
            answer.write("successor")
        await closing

    on(loop, work())
    assert kept.read_text() == "successor"
    assert children() == []


def test_a_holder_that_closes_kills_a_program_that_does_not_end(loop, tmp_path, caplog):
    file, pids = tmp_path / "pid", list[int]()  # the program would end by itself after a minute: it is to be killed
    path = program(tmp_path, f"import os, time\nopen('{file}', 'w').write(str(os.getpid()))\ntime.sleep(60)")

    async def work() -> None:
        holder = TokenHolder("corp", source(path, clock=HurriedClock()), CLOCK, Redactor(), WaitBudget(10.0))
        holder.start()
        pids.append(int(await until(lambda: file.exists() and file.read_text())))
        await holder.aclose()

    on(loop, work())
    assert not lives(pids[0])
    assert children() == []
    killed = [record.fields for record in caplog.records if record.getMessage() == "token_program_killed"]
    assert killed == [{"credential": "corp"}]
