"""A program that prints a token."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from signal import Signals
from subprocess import DEVNULL
from typing import Any

from gatepass.cancel import timeout
from gatepass.clock import Clock
from gatepass.config.credential.kinds import ExecCredential
from gatepass.observability.redaction import MASK, Redactor
from gatepass.tokens.backoff import WORKED_TRIES
from gatepass.tokens.failure import FetchFailure, setting
from gatepass.tokens.issuer_error import DEFINITE_CODES, REFUSED, REPLY_BYTES, Mask, mask_token_like, one_line
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import revealed, secret_fields, secret_values
from gatepass.tokens.token_reply import EXEC_CREDENTIAL, ReadTimes, TokenReplyFormat, parse_token_document
from gatepass.types import Secret

STDERR_BYTES = 4096
"""The end of what a program complains is kept."""
PIPE_CLOSE_S = 0.5
"""How long the output is read on after the program has ended: what it left in the background may hold it open."""
REAP_S = 2.0
"""How long a killed program is waited for. One that hangs in the kernel is reaped by the loop when it can."""


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """`code` is negative where a signal ended the program. `cut`: it printed more than was wanted, and was killed."""

    code: int
    stdout: bytes = field(default=b"", repr=False)
    cut: bool = False


async def run(
    arguments: Sequence[str], environment: Mapping[str, str], limit_bytes: int, stderr: bytearray, clock: Clock
) -> ProcessResult:
    """Run a program to its end; raises OSError where it cannot be started, ValueError for a NUL in its arguments.

    The last STDERR_BYTES of its stderr stand in `complaints` as they come. It has no input, and a session
    and process group of its own, which is killed as a whole where this is cancelled or more than
    `limit_bytes` come out, and in the end, with what is left of it: a program that means to leave
    something behind gives it a session of its own (setsid(1)), and nobody ends that. It is reaped and
    its pipes are closed in every case.
    """
    if any("\0" in text for text in (*arguments, *environment.values())):  # uvloop would cut them there
        raise ValueError("a NUL in an argument or variable")
    start = asyncio.ensure_future(_start(arguments, environment, _Output(limit_bytes, stderr)))
    try:
        await _wait_despite_cancel(start)
        transport, output = start.result()
        await output.ended.wait()
        await _wait_at_most(output.closed, PIPE_CLOSE_S, clock)
    finally:
        if start.done() and not start.cancelled() and start.exception() is None:
            await _end(*start.result(), clock)
    code = transport.get_returncode()
    return ProcessResult(-signal.SIGKILL if code is None else code, bytes(output.stdout), output.cut)


async def _start(
    arguments: Sequence[str], environment: Mapping[str, str], output: _Output
) -> tuple[asyncio.SubprocessTransport, _Output]:
    return await asyncio.get_running_loop().subprocess_exec(
        lambda: output, *arguments, stdin=DEVNULL, env=dict(environment), start_new_session=True
    )


async def _wait_despite_cancel(start: asyncio.Future[Any]) -> None:
    """Wait until `start` is done, a matter of milliseconds, and only then be cancelled.

    A start that is cancelled itself kills the program alone, and asyncio then waits for whatever else
    holds its pipes open (CPython, `asyncio/unix_events.py`, `_make_subprocess_transport`).
    """
    cancelled = None
    while not start.done():
        try:
            await asyncio.wait({start})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _end(transport: asyncio.SubprocessTransport, output: _Output, clock: Clock) -> None:
    try:
        if output.exited.is_set():
            _kill_rest(transport.get_pid())
        else:
            _kill_group(transport.get_pid())
            await _wait_at_most(output.exited, REAP_S, clock)
    finally:
        transport.close()


class _Output(asyncio.SubprocessProtocol):
    """Gathers what comes out, within bounds. `ended`: there is nothing more to wait for."""

    def __init__(self, limit_bytes: int, stderr: bytearray) -> None:
        self._limit_bytes = limit_bytes
        self._stderr = stderr
        self._open = {1, 2}
        self.stdout = bytearray()
        self.cut = False
        self.exited, self.ended, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr += data
            del self._stderr[:-STDERR_BYTES]
        elif not self.cut:
            self.stdout += data
            if len(self.stdout) > self._limit_bytes:
                self.cut = True
                self.ended.set()
                self.closed.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._open.discard(fd)
        if not self._open:
            self.closed.set()

    def process_exited(self) -> None:
        self.exited.set()
        self.ended.set()


async def _wait_at_most(event: asyncio.Event, limit_s: float, clock: Clock) -> None:
    timer = clock.call_later(limit_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()


def _kill_rest(pid: int) -> None:
    """Kill what a program left in its group when it ended.

    It has been reaped, but no new process gets the number of a group that has members (Linux, `kernel/pid.c`:
    a number is free when nothing refers to it). So a process of that number means that the group is over.
    """
    try:
        os.getpgid(pid)
    except ProcessLookupError:
        _kill_group(pid)


def _kill_group(pid: int) -> None:
    """Kill a group: the program, where it is not reaped yet, and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


KUBERNETES = "client.authentication.k8s.io"
EXEC_INFO = "KUBERNETES_EXEC_INFO"
EX_NOPERM = 77
"""By sysexits.h "permission denied": a program's way to say that asking again soon is of no use."""
EX_TEMPFAIL = 75
"""By sysexits.h "temporary failure; user is invited to retry"."""
_REFUSAL = re.compile(rf"\b({'|'.join(sorted(DEFINITE_CODES))})\b")
"""What programs hand on of an issuer: its code. Asked every two seconds, an account would soon be locked."""
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+")

Runner = Callable[[Sequence[str], Mapping[str, str], int, bytearray, Clock], Awaitable[ProcessResult]]
"""`process.run`, or what stands for it."""


class _Late(Exception):
    """The time of the run is over."""


class ExecSource:
    def __init__(self, name: str, settings: ExecCredential, clock: Clock, runner: Runner = run) -> None:
        self._name = name
        self._settings = settings
        self._clock = clock
        self._run = runner
        self._program = PurePath(_shown(settings.command[0])).name
        arguments = (part for part in settings.command if isinstance(part, Secret))
        self._secrets = (*arguments, *secret_fields(settings.env))

    def __repr__(self) -> str:
        return f"ExecSource({self._name})"

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        """Run it once, within `timeout_s` in all; cancelled, it is killed."""
        own = Redactor()
        for value in secret_values(self._secrets):
            own.learn(value or "")
        requested_s, wall_s = self._clock.now(), self._clock.wall()
        finished = await self._finished(own.mask)
        settings, printed = self._settings, f"what {self._program} prints"
        paths, credential = settings.reply, self._name
        if settings.exec_credential is not None:
            paths, credential = EXEC_CREDENTIAL, ""
        reply_format = TokenReplyFormat(
            printed, settings.default_ttl_s, settings.max_ttl_s, paths, credential=credential
        )
        return parse_token_document(_text(finished.stdout), reply_format, ReadTimes(wall_s), own.mask).token(
            requested_s
        )

    async def _finished(self, mask: Mask) -> ProcessResult:
        """A run that went well; raises FetchFailure with the last line of what the program complained."""
        limit_s, stderr = self._settings.timeout_s, bytearray()
        running = self._run(self._arguments(), self._environment(), REPLY_BYTES, stderr, self._clock)
        try:
            finished = await timeout(self._clock, limit_s, running, _Late())
        except _Late:
            bound = f"{limit_s:g} s ({setting(self._name, 'timeout_s')})"
            how = f"{self._program} did not end within {bound}, and was killed"
            raise FetchFailure(_with_words(how, stderr, mask), quick=False) from None
        except OSError as error:
            reason = (
                f"{_shown(self._settings.command[0])} cannot be started: {error.strerror or 'refused by the system'}"
            )
            raise FetchFailure(reason, quick=False) from None
        except ValueError:
            raise FetchFailure(f"{self._program}: a NUL in its arguments or environment", definite=True) from None
        if finished.cut:
            raise FetchFailure(f"{self._program} printed more than {REPLY_BYTES} bytes", quick=False)
        if finished.code != 0:
            raise _failed(self._program, finished.code, stderr, mask)
        return finished

    def _arguments(self) -> list[str]:
        named = enumerate(self._settings.command)
        return [revealed(part, f"command[{at}]") if isinstance(part, Secret) else part for at, part in named]

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        environment = settings.inherited()
        if settings.exec_credential is not None:
            # as kubectl does, but nothing of a cluster: no plugin may ask at a terminal
            version = f"{KUBERNETES}/{settings.exec_credential}"
            told = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
            environment[EXEC_INFO] = json.dumps(told, separators=(",", ":"))
        return environment | {name: revealed(value, f"env.{name}") for name, value in settings.env.items()}


def _failed(program: str, code: int, stderr: bytearray, mask: Mask) -> FetchFailure:
    definite = code == EX_NOPERM or _REFUSAL.search(mask(_text(stderr))) is not None
    how = f"ended with exit code {code}" if code > 0 else f"was killed by {_signal(-code)}"
    words = _with_words(f"{REFUSED if definite else ''}{program} {how}", stderr, mask)
    unclear = code > 0 and code != EX_TEMPFAIL
    return FetchFailure(words, definite=definite, unclear=unclear, quick=False, free_tries=WORKED_TRIES)


def _with_words(how: str, stderr: bytearray, mask: Mask) -> str:
    """`how` and the last line of the complaints, masked and cut."""
    lines = [line for line in _text(stderr).splitlines() if line.strip()]
    return f"{how}: {one_line(mask_token_like(_JWT.sub(MASK, mask(lines[-1]))), mask)}" if lines else how


def _signal(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(output: bytes | bytearray) -> str:
    return output.decode("utf-8-sig", "replace")


def _shown(part: str | Secret) -> str:
    return "the program" if isinstance(part, Secret) else part
