"""`type: exec` from its configuration to a token, with real programs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gatepass.clock import SystemClock
from gatepass.config.credential.kinds import ExecCredential
from gatepass.observability.redaction import Redactor
from gatepass.tokens import FetchFailure, Token, TokenHolder, WaitBudget
from gatepass.tokens.sources.exec import ExecSource
from tests.integration.tokens.programs import LOOPS, children, lives, on, program
from tests.waiting import until

pytestmark = pytest.mark.parametrize("loop", LOOPS)
CLOCK = SystemClock()


def source(*command: str, **more: Any) -> ExecSource:
    return ExecSource("corp", ExecCredential.model_validate({"type": "exec", "command": list(command), **more}), CLOCK)


def fetched(loop: str, *command: str, **more: Any) -> Token:
    return on(loop, source(*command, **more).fetch())


def failure(loop: str, *command: str, **more: Any) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        fetched(loop, *command, **more)
    return caught.value


def test_it_is_found_by_the_path_of_its_own_environment(loop, tmp_path, monkeypatch):
    program(tmp_path, "print('abc')", "corp-login")
    assert failure(loop, "corp-login").reason == "corp-login cannot be started: No such file or directory"
    assert fetched(loop, "corp-login", env={"PATH": str(tmp_path)}).text == "abc"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetched(loop, "corp-login").text == "abc"


def test_a_hanging_program_ends_in_time_and_its_output_is_quoted(loop, tmp_path):
    path = program(
        tmp_path, "import sys, time\nprint('open https://x/device', file=sys.stderr, flush=True)\ntime.sleep(60)"
    )
    began_s = time.monotonic()
    reported = failure(loop, path, timeout_s=1.0)
    assert (
        reported.reason
        == "get-token did not end within 1 s (credentials.corp.timeout_s), and was killed: open https://x/device"
    )
    assert time.monotonic() - began_s < 4
    assert children() == []


def test_a_holder_that_closes_kills_the_program(loop, tmp_path):
    file, pids = tmp_path / "pid", list[int]()  # the program would end by itself after a minute: it is to be killed
    path = program(tmp_path, f"import os, time\nopen('{file}', 'w').write(str(os.getpid()))\ntime.sleep(60)")

    async def work() -> None:
        holder = TokenHolder("corp", source(path), CLOCK, Redactor(), WaitBudget(10.0))
        holder.start()
        pids.append(int(await until(lambda: file.exists() and file.read_text())))
        await holder.aclose()

    on(loop, work())
    assert not lives(pids[0])
    assert children() == []


SEES = """\
import json, os
json.dump(sorted(os.environ), open(__file__ + ".env", "w"))
print("abc")
"""


def test_the_environment_of_the_process_stays_its_own(loop, tmp_path, monkeypatch):
    monkeypatch.setenv("GATEPASS_TOKEN", "our-own-secret")
    path = program(tmp_path, SEES)
    fetched(loop, path, env={"REGION": "eu"})
    seen = json.loads(Path(f"{path}.env").read_text())
    assert set(seen) - {"LC_CTYPE"} == {"REGION"} | ({"PATH", "HOME"} & set(os.environ))
