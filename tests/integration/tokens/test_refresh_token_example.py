"""examples/refresh_token.py: it never uses a token twice, and the file holds the newest token after a crash."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from gatepass.config.credential.kinds import ExecCredential
from gatepass.tokens import build_source
from gatepass.tokens.failure import FailureKind
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send, reply
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import failure_of
from tests.waiting import until

PROGRAM = Path(__file__).parents[3] / "examples/refresh_token.py"
CLIENT = {"CLIENT_ID": "me", "CLIENT_SECRET": "a-secret-of-the-client"}


class Rotating:
    """An issuer whose refresh tokens are good for one use. `used` has each token that it received."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def __call__(self, request: Received) -> Dialogue:
        form = {name: value for name, (value,) in parse_qs(request.body.decode()).items()}
        assert (form["grant_type"], form["client_id"]) == ("refresh_token", "me")
        assert form["client_secret"] == "a-secret-of-the-client"
        self.used.append(form["refresh_token"])
        if form["refresh_token"] != f"refresh-{len(self.used)}":
            return [Send(reply({"error": "invalid_grant"}, 400))]
        number = len(self.used)
        members = {"access_token": f"access-{number}", "expires_in": 300, "refresh_token": f"refresh-{number + 1}"}
        return [Send(reply(members))]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "corp.refresh"
    path.write_text("refresh-1\n")
    return path


async def started(file: Path, issuer: Scripted) -> Process:
    arguments = (sys.executable, str(PROGRAM), str(file), f"{issuer.url}/token")
    return await asyncio.create_subprocess_exec(*arguments, env=CLIENT, stdout=PIPE, stderr=PIPE)


async def printed(program: Process) -> dict[str, Any]:
    out, err = await program.communicate()
    assert program.returncode == 0, err.decode()
    document: dict[str, Any] = json.loads(out)
    return document


async def test_each_run_uses_the_token_of_the_last_one(file):
    async with Scripted(answer=(rotating := Rotating())) as issuer:
        shown = [await printed(await started(file, issuer)) for _ in range(3)]
    assert shown == [{"access_token": f"access-{number}", "expires_in": 300} for number in (1, 2, 3)]
    assert (rotating.used, file.read_text()) == (["refresh-1", "refresh-2", "refresh-3"], "refresh-4")
    assert file.stat().st_mode & 0o777 == 0o600


async def test_two_processes_take_turns(file):
    async with Scripted(answer=(rotating := Rotating())) as issuer:
        both = [await started(file, issuer) for _ in range(2)]
        shown = [await printed(program) for program in both]
    assert {one["access_token"] for one in shown} == {"access-1", "access-2"}
    assert rotating.used == ["refresh-1", "refresh-2"]


async def test_a_killed_program_leaves_a_whole_token(file):
    async with Scripted([Hold()]) as issuer:
        program = await started(file, issuer)
        await until(lambda: bool(issuer.received))
        program.send_signal(signal.SIGKILL)
        await program.communicate()
    assert file.read_text() == "refresh-1\n"
    async with Scripted(answer=Rotating()) as issuer:
        assert (await printed(await started(file, issuer)))["access_token"] == "access-1"


async def test_a_token_whose_successor_has_no_place_is_not_used(file):
    (file.parent / "corp.refresh.new").mkdir()
    async with Scripted(answer=(rotating := Rotating())) as issuer:
        program = await started(file, issuer)
        _, err = await program.communicate()
    assert (program.returncode, rotating.used) == (1, [])
    assert b"corp.refresh.new" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("answered", "kind", "words"),
    [
        (reply({"error": "invalid_grant"}, 400), FailureKind.REFUSED, "the issuer answered 400: "),
        (reply({}, 503), FailureKind.OUTAGE, "the issuer answered 503: "),
        (reply(b"<html>", content_type="text/html"), FailureKind.OUTAGE, "no token: "),
    ],
)
async def test_gatepass_shows_why_there_is_no_token(file, answered, kind, words):
    async with Scripted(answer=lambda _: [Send(answered)]) as issuer:
        command = [sys.executable, str(PROGRAM), str(file), f"{issuer.url}/token"]
        settings = ExecCredential.model_validate({"type": "exec", "command": command, "env": CLIENT})
        failure = await failure_of(build_source("corp", settings, None, DrivenClock()).fetch())
    assert (failure.kind, words in failure.reason) == (kind, True), failure.reason
    assert file.read_text() == "refresh-1\n"
