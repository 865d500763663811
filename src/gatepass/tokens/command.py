"""A program that prints a token."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import PurePath
from signal import Signals

from gatepass.call import Secret
from gatepass.config.credential.exec import ExecCredential
from gatepass.observe.redaction import MASK, Redactor
from gatepass.runtime import Clock, timeout
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.held import EXEC_CREDENTIAL, Moments, read_document
from gatepass.tokens.life import Token
from gatepass.tokens.objection import DEFINITE_CODES, REFUSED, without_tokens
from gatepass.tokens.process import Finished, run
from gatepass.tokens.reading import Terms
from gatepass.tokens.remedy import setting
from gatepass.tokens.reply import REPLY_BYTES, Mask, folded
from gatepass.tokens.secret import readable, revealed, secret_fields
from gatepass.tokens.wording import says_no

KUBERNETES = "client.authentication.k8s.io"
EXEC_INFO = "KUBERNETES_EXEC_INFO"
EX_NOPERM = 77
"""By sysexits.h "permission denied": a program's way to say that asking again soon is of no use."""
_REFUSAL = re.compile(rf"\b({'|'.join(sorted(DEFINITE_CODES))})\b")
"""What programs hand on of an issuer: its code. Asked every two seconds, an account would soon be locked."""
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+")

Runner = Callable[[Sequence[str], Mapping[str, str], int, bytearray, Clock], Awaitable[Finished]]
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
        for value in readable(self._secrets):
            own.learn(value or "")
        born_s, wall_s = self._clock.now(), self._clock.wall()
        finished = await self._finished(own.mask)
        minted = read_document(_text(finished.stdout), self._terms(), Moments(wall_s), own.mask)
        return Token(Secret(minted.text), born_s, minted.life_s, minted.kind, minted.told_by, minted.no_expiry_at)

    async def _finished(self, mask: Mask) -> Finished:
        """A run that went well; raises FetchFailure with the last line of what the program complained."""
        limit_s, complaints = self._settings.timeout_s, bytearray()
        running = self._run(self._arguments(), self._environment(), REPLY_BYTES, complaints, self._clock)
        try:
            finished = await timeout(self._clock, limit_s, running, _Late())
        except _Late:
            bound = f"{limit_s:g} s ({setting(self._name, 'timeout_s')})"
            how = f"{self._program} did not end within {bound}, and was killed"
            raise FetchFailure(_with_words(how, complaints, mask), quick=False) from None
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
            raise _failed(self._program, finished.code, complaints, mask)
        return finished

    def _arguments(self) -> list[str]:
        named = enumerate(self._settings.command)
        return [revealed(part, f"command[{at}]") if isinstance(part, Secret) else part for at, part in named]

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        environment = settings.inherited()
        if settings.exec_credential is not None:
            environment[EXEC_INFO] = _exec_info(settings.exec_credential)
        return environment | {name: revealed(value, f"env.{name}") for name, value in settings.env.items()}

    def _terms(self) -> Terms:
        settings = self._settings
        paths = settings.reply if settings.exec_credential is None else EXEC_CREDENTIAL
        name = f"what {self._program} prints"
        own = self._name if settings.exec_credential is None else ""
        return Terms(name, settings.default_ttl_s, settings.max_ttl_s, paths, credential=own)


def _exec_info(version: str) -> str:
    """What kubectl hands over, of a cluster nothing: no plugin may ask at a terminal."""
    document = {"apiVersion": f"{KUBERNETES}/{version}", "kind": "ExecCredential", "spec": {"interactive": False}}
    return json.dumps(document, separators=(",", ":"))


def _failed(program: str, code: int, complaints: bytearray, mask: Mask) -> FetchFailure:
    definite = code == EX_NOPERM or _is_refusal(mask(_text(complaints)))
    how = f"ended with exit code {code}" if code > 0 else f"was killed by {_signal(-code)}"
    words = _with_words(f"{REFUSED if definite else ''}{program} {how}", complaints, mask)
    return FetchFailure(words, definite=definite, quick=False)


def _is_refusal(complaints: str) -> bool:
    return _REFUSAL.search(complaints) is not None or any(says_no(line) for line in complaints.splitlines())


def _with_words(how: str, complaints: bytearray, mask: Mask) -> str:
    """`how` and the last line of the complaints, masked and cut."""
    lines = [line for line in _text(complaints).splitlines() if line.strip()]
    return f"{how}: {folded(without_tokens(_JWT.sub(MASK, mask(lines[-1]))), mask)}" if lines else how


def _signal(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(output: bytes | bytearray) -> str:
    return output.decode("utf-8-sig", "replace")


def _shown(part: str | Secret) -> str:
    return "the program" if isinstance(part, Secret) else part
