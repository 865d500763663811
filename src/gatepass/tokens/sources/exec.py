"""Run a program that prints a token."""

from __future__ import annotations

import asyncio
import logging
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

from gatepass.clock import Clock, wait_at_most
from gatepass.config.advice import Advice
from gatepass.config.credential.kinds import ExecCredential
from gatepass.observability.redaction import MASK
from gatepass.replies.error_body import Mask
from gatepass.tokens.failure import FailureCase, FailureKind, FetchFailure, oauth_code
from gatepass.tokens.issuer_error import DEFINITE_CODES, REFUSED, REPLY_BYTES, mask_token_like, one_line
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import all_revealed, mask_of, revealed, secret_fields
from gatepass.tokens.token_reply import ReadTimes, TokenReplyFormat, parse_token_document
from gatepass.types import Secret

LOG = logging.getLogger("gatepass.tokens")

STDERR_BYTES = 4096
PIPE_CLOSE_S = 0.5
"""How long the output is read after the program has ended. A background process may hold the pipe open."""
STOP_S = 3.0
"""How long a cancelled run waits for its program, which may be about to store the successor of a used refresh token."""
REAP_S = 2.0
"""How long to wait for a killed program. One that hangs in the kernel is reaped by the loop later."""
EX_NOPERM = 77
""""Permission denied" in sysexits.h. A program returns it if another attempt soon is useless."""
EX_TEMPFAIL = 75
""""Temporary failure; user is invited to retry" in sysexits.h."""
_REFUSAL = re.compile(rf"\b({'|'.join(sorted(DEFINITE_CODES))})\b")
"""An issuer's code in a program's error output. Repeated every two seconds, such a refusal would lock the account."""
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+")


class ProgramKilled(asyncio.CancelledError):
    """The run was cancelled, and its program did not end within STOP_S."""


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """The result of a run: `code` is negative after a signal; `cut`: the output exceeded the limit."""

    code: int
    stdout: bytes = field(default=b"", repr=False)
    cut: bool = False


async def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    limit_s: float,
    limit_bytes: int,
    stderr: bytearray,
    clock: Clock,
) -> ProcessResult:
    """Run a program to its end; raise OSError if it cannot be started, ValueError for a NUL in its arguments.

    `stderr` receives the last STDERR_BYTES of the error output while the program runs. The program has no input and its
    own session. Its process group is killed when the program has ended, when it exceeds `limit_bytes` or `limit_s`
    (TimeoutError), and STOP_S after the call was cancelled (ProgramKilled). To leave a process behind, the program must
    start it in another session (setsid(1)). The program is reaped and its pipes are closed in every case.
    """
    if any("\0" in text for text in (*arguments, *environment.values())):  # uvloop would cut the text there
        raise ValueError("a NUL in an argument or variable")
    protocol, loop = _Output(limit_bytes, stderr), asyncio.get_running_loop()
    start = asyncio.ensure_future(
        loop.subprocess_exec(lambda: protocol, *arguments, stdin=DEVNULL, env=dict(environment), start_new_session=True)
    )
    try:
        cancelled = await _wait_despite_cancel(start)
        transport, output = start.result()
        try:
            if cancelled is not None:
                raise cancelled
            await wait_at_most(output.ended, limit_s, clock)
        except asyncio.CancelledError:
            await wait_at_most(output.ended, STOP_S, clock)
            if output.exited.is_set():
                raise
            raise ProgramKilled from None
        if not (output.cut or output.exited.is_set()):
            raise TimeoutError
        await wait_at_most(output.closed, PIPE_CLOSE_S, clock)
    finally:
        if start.done() and not start.cancelled() and start.exception() is None:
            await _end(*start.result(), clock)
    # None if the loop has not reaped the killed program yet.
    code = transport.get_returncode()
    return ProcessResult(-signal.SIGKILL if code is None else code, bytes(output.stdout), output.cut)


async def _wait_despite_cancel(start: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `start` is done, a matter of milliseconds; return a cancellation, and raise it if the start failed.

    A cancelled start kills only the program. asyncio then waits for every other process that holds its pipes open
    (CPython, `asyncio/unix_events.py`, `_make_subprocess_transport`).
    """
    cancelled = None
    while not start.done():
        try:
            await asyncio.wait({start})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and (start.cancelled() or start.exception() is not None):
        raise cancelled
    return cancelled


async def _end(transport: asyncio.SubprocessTransport, output: _Output, clock: Clock) -> None:
    try:
        if output.exited.is_set():
            # The program is reaped, but Linux reuses its number only when its group is empty (`kernel/pid.c`): what is
            # left are the processes that the program left in it.
            try:
                os.getpgid(transport.get_pid())
            except ProcessLookupError:
                _kill_group(transport.get_pid())
        else:
            _kill_group(transport.get_pid())
            await wait_at_most(output.exited, REAP_S, clock)
    finally:
        transport.close()


class _Output(asyncio.SubprocessProtocol):
    """Collects the output, within limits. `ended`: the program has ended or its output is cut."""

    def __init__(self, limit_bytes: int, stderr: bytearray) -> None:
        self._limit_bytes = limit_bytes
        self._stderr = stderr
        self._open = {1, 2}  # file descriptors of stdout and stderr
        self.stdout = bytearray()
        self.cut = False
        self.exited, self.ended, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr += data
            del self._stderr[:-STDERR_BYTES]  # the last lines name the reason
        elif not self.cut:
            self.stdout += data
            if len(self.stdout) > self._limit_bytes:  # wake the reader, which kills the program
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


def _kill_group(pid: int) -> None:
    """Kill a process group: the program, if it is not reaped yet, and its children."""
    # PermissionError: the program has changed its user (setuid), so that gatepass cannot kill it.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


Runner = Callable[[Sequence[str], Mapping[str, str], float, int, bytearray, Clock], Awaitable[ProcessResult]]
"""`run`, or a replacement for tests."""


class ExecSource:
    def __init__(self, name: str, settings: ExecCredential, clock: Clock, runner: Runner = run) -> None:
        self._name = name
        self._settings = settings
        self._clock = clock
        self._run = runner
        self._program = PurePath(_shown(settings.command[0])).name
        arguments = (part for part in settings.command if isinstance(part, Secret))
        self._secrets = (*arguments, *secret_fields(settings.env))

    def secrets(self) -> tuple[Secret, ...]:
        return self._secrets

    async def fetch(self) -> Token:
        """Run the program once, within `timeout_s`; a cancelled fetch kills it after STOP_S.

        Raises FetchFailure with the last line of the error output.
        """
        mask, at_s = mask_of(self._secrets), ReadTimes(self._clock.now(), self._clock.wall())
        limit_s, stderr = self._settings.timeout_s, bytearray()
        parts = enumerate(self._settings.command)
        arguments = [revealed(part, f"command[{i}]") if isinstance(part, Secret) else part for i, part in parts]
        # Not all variables: they contain secrets of gatepass and of other services. Most programs need these: the
        # first to start others, and the second for their own login.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = inherited | all_revealed(self._settings.env, "env")
        try:
            finished = await self._run(arguments, environment, limit_s, REPLY_BYTES, stderr, self._clock)
        except ProgramKilled:
            LOG.warning("token_program_killed", extra={"fields": {"credential": self._name}})
            raise
        except TimeoutError:
            bound = f"{limit_s:g} s (credentials.{self._name}.timeout_s)"
            how = f"{self._program} did not end within {bound}, and was killed"
            advice = Advice("program_slow", {"credential": self._name})
            raise FetchFailure(_with_words(how, stderr, mask), advice=advice) from None
        except OSError as error:
            program, reason = _shown(self._settings.command[0]), error.strerror or "refused by the system"
            raise FetchFailure(f"{program} cannot be started: {reason}") from None
        # A setting causes it, so another attempt fails too.
        except ValueError:
            raise FetchFailure(f"{self._program}: a NUL in its arguments or environment", FailureKind.REFUSED) from None
        if finished.cut:
            raise FetchFailure(f"{self._program} printed more than {REPLY_BYTES} bytes")
        if finished.code != 0:
            raise _failed(self._program, finished.code, stderr, mask)
        settings, printed = self._settings, f"what {self._program} prints"
        reply_format = TokenReplyFormat(printed, settings.default_ttl_s, settings.reply, credential=self._name)
        return parse_token_document(_text(finished.stdout), reply_format, at_s, mask)


def _failed(program: str, code: int, stderr: bytearray, mask: Mask) -> FetchFailure:
    # A program cannot return an HTTP status. Only a code of RFC 6749 in its output, or EX_NOPERM, is certain.
    definite = code == EX_NOPERM or _REFUSAL.search(mask(_text(stderr))) is not None
    killed_by = next((one.name for one in Signals if one == -code), f"signal {-code}")
    how = f"ended with exit code {code}" if code > 0 else f"was killed by {killed_by}"
    words = _with_words(f"{REFUSED if definite else ''}{program} {how}", stderr, mask)
    # A signal (negative code) comes from the system, not from the issuer.
    is_outage = code < 0 or code == EX_TEMPFAIL
    kind = FailureKind.REFUSED if definite else FailureKind.OUTAGE if is_outage else FailureKind.LIMITED
    return FetchFailure(words, kind, case=FailureCase.REFUSED if definite else "", code=oauth_code(words))


def _with_words(how: str, stderr: bytearray, mask: Mask) -> str:
    """Return `how` and the last line of the error output, masked and cut."""
    # The last line, because tracebacks and the CLIs of clouds end with the reason.
    lines = [line for line in _text(stderr).splitlines() if line.strip()]
    return f"{how}: {one_line(mask_token_like(_JWT.sub(MASK, mask(lines[-1]))), mask)}" if lines else how


def _text(output: bytes | bytearray) -> str:
    return output.decode("utf-8-sig", "replace")


def _shown(part: str | Secret) -> str:
    return "the program" if isinstance(part, Secret) else part
