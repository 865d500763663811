import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gatepass.cancel import timeout
from gatepass.clock import Clock, sleep
from gatepass.config.credential.kinds import ExecCredential
from gatepass.config.references import Reference, resolve
from gatepass.tokens import Token, build_source
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.tokens.sources.exec import ExecSource, ProcessResult
from gatepass.types import Secret
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import ScriptedIssuer, failure_of, signed

KEY = Reference.to_variable("KEY", "top-secret-value")


class Program:
    """A fake process that ends with a given result, after `takes_s`."""

    def __init__(self, *ends: ProcessResult | Exception, takes_s: float = 0.0, stderr: str = "") -> None:
        self.ends = list(ends)
        self.stderr = stderr.encode()
        self.takes_s = takes_s
        self.runs: list[tuple[Sequence[str], Mapping[str, str], int]] = []
        self.running = 0

    async def __call__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        limit_s: float,
        limit_bytes: int,
        stderr: bytearray,
        clock: Clock,
    ) -> ProcessResult:
        self.runs.append((arguments, dict(environment), limit_bytes))
        self.running += 1
        stderr += self.stderr
        try:
            if self.takes_s:
                await timeout(clock, limit_s, sleep(clock, self.takes_s), TimeoutError())
            end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
            if isinstance(end, Exception):
                raise end
            return end
        finally:
            self.running -= 1


def printed(document: Any) -> ProcessResult:
    text = document if isinstance(document, str) else json.dumps(document)
    return ProcessResult(0, text.encode())


def failing(code: int, stderr: str) -> Program:
    return Program(ProcessResult(code), stderr=stderr)


def settings(**more: Any) -> ExecCredential:
    return ExecCredential.model_validate({"type": "exec", "command": ["/opt/bin/get-token"], **more})


def source(program: Program, clock: DrivenClock | None = None, **more: Any) -> ExecSource:
    return ExecSource("corp", settings(**more), clock or DrivenClock(), program)


async def fetched(output: Any, **more: Any) -> Token:
    return await source(Program(printed(output)), **more).fetch()


async def test_lifetime_starts_with_the_run():
    clock = DrivenClock()
    program = Program(printed({"token": "abc", "expires_in": 300}), takes_s=4.0)
    fetch = asyncio.create_task(source(program, clock).fetch())
    await clock.advance(4.0)
    token = await fetch
    assert (token.requested_s, token.lifetime_s, token.lifetime_source) == (1000.0, 300.0, LifetimeSource.REPLY)


async def test_json_by_paths_and_a_jwt_by_its_own_word():
    assert (await fetched({"a": {"t": "abc"}, "u": 9}, reply={"token": "a.t", "expiry": "u"})).lifetime_s == 9.0
    now = DrivenClock().wall()
    text = signed(iat=now - 200, exp=now + 100)
    token = await fetched(text)
    assert (token.text, token.lifetime_s, token.kind) == (text, 100.0, TokenKind.JWT)


async def test_program_receives_its_arguments_and_its_own_environment(monkeypatch):
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("LEAK", "x")
    monkeypatch.delenv("HOME", raising=False)
    program = Program(printed("abc"))
    command = ["get-token", "--key", KEY, "a b; rm $HOME"]
    await source(program, command=command, env={"REGION": "eu", "PASSWORD": KEY}).fetch()
    assert program.runs == [
        (
            ["get-token", "--key", "top-secret-value", "a b; rm $HOME"],
            {"PATH": "/bin", "REGION": "eu", "PASSWORD": "top-secret-value"},
            64 * 1024,
        )
    ]


async def test_its_secrets_are_read_at_every_run(tmp_path):
    file = tmp_path / "key"
    file.write_text("first-secret\n")
    reference = resolve(f"${{file:{file}}}", {})
    program = Program(printed("abc"))
    it = source(program, command=["x", reference], env={"KEY": reference})
    await it.fetch()
    file.write_text("second-secret\n")
    await it.fetch()
    assert [(run[0][1], run[1]["KEY"]) for run in program.runs] == [("first-secret",) * 2, ("second-secret",) * 2]
    assert [secret.reveal() for secret in it.secrets()] == ["second-secret"] * 2
    file.unlink()
    assert (await failure_of(it.fetch())).reason == (
        f"command[1]: the file {file} cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    ("program", "reason", "definite"),
    [
        (failing(1, ""), "get-token ended with exit code 1", False),
        (failing(1, "a\nno route to host\n\n"), "get-token ended with exit code 1: no route to host", False),
        (failing(2, "oh no " * 50), f"get-token ended with exit code 2: {('oh no ' * 50)[:199]}…", False),
        (
            failing(3, '{"refresh_token":"0.AXoAopaque8f3k2l1q9z7x5v3b1n","err":"x"}'),
            'get-token ended with exit code 3: {"refresh_token":"***","err":"x"}',
            False,
        ),
        (failing(77, "no"), "the issuer refused the client: get-token ended with exit code 77: no", True),
        (failing(1, "wrong: top-secret-value!"), "get-token ended with exit code 1: wrong: ***!", False),
        (
            failing(1, f"got {signed(exp=1)} and died"),
            "get-token ended with exit code 1: got *** and died",
            False,
        ),
        (failing(-9, ""), "get-token was killed by SIGKILL", False),
        (failing(-200, ""), "get-token was killed by signal 200", False),
        (Program(printed(""), stderr="warning"), "what get-token prints is empty", False),
        (Program(ProcessResult(-9, cut=True)), "get-token printed more than 65536 bytes", False),
        (Program(FileNotFoundError(2, "No such file")), "/opt/bin/get-token cannot be started: No such file", False),
        (Program(OSError()), "/opt/bin/get-token cannot be started: refused by the system", False),
        (Program(ValueError()), "get-token: a NUL in its arguments or environment", True),
    ],
)
async def test_a_failure_states_the_reason_and_keeps_secrets(program, reason, definite):
    failure = await failure_of(source(program, env={"K": KEY}).fetch())
    assert (failure.reason, failure.is_refused) == (reason, definite)


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        *(
            (1, words, "refused")
            for words in ("invalid_client", "error: invalid_grant: x", "AADSTS: unauthorized_client.")
        ),
        *((1, words, "limited") for words in ("wrong password", "HTTP 403", "connection refused", "")),
        (75, "try later", "outage"),
        (-9, "", "outage"),
    ],
)
async def test_a_code_of_oauth_backs_off_and_any_other_failure_may_be_a_refusal(code, words, kind):
    assert (await failure_of(source(failing(code, words)).fetch())).kind == kind


async def test_the_whole_run_is_bounded():
    clock = DrivenClock()
    program = Program(printed("abc"), takes_s=100.0, stderr="open https://login.example/device and type A-B\n")
    fetch = asyncio.create_task(failure_of(source(program, clock, timeout_s=3.0).fetch()))
    await clock.advance(2.9)
    assert program.running == 1
    await clock.advance(0.1)
    failure = await fetch
    assert failure.reason == (
        "get-token did not end within 3 s (credentials.corp.timeout_s), and was killed: "
        "open https://login.example/device and type A-B. "
        "Run the program by hand. If it is only slow, raise credentials.corp.timeout_s"
    )
    assert program.running == 0


async def test_a_program_by_reference_has_no_name():
    failure = await failure_of(source(failing(1, ""), command=[KEY]).fetch())
    assert failure.reason == "the program ended with exit code 1"


def test_it_prints_no_secret():
    it = source(Program(printed("abc")), command=["x", KEY], env={"SCOPE": "all", "PASSWORD": Secret("p-secret")})
    assert [secret.reveal() for secret in it.secrets()] == ["top-secret-value", "p-secret"]
    assert isinstance(build_source("corp", settings(), ScriptedIssuer(DrivenClock()), DrivenClock()), ExecSource)
