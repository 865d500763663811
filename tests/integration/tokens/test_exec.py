"""`type: exec` from its configuration to a token, with real programs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from gatepass.clock import SystemClock
from gatepass.config.credential.kinds import ExecCredential
from gatepass.config.load import load
from gatepass.observability.redaction import Redactor
from gatepass.tokens import FetchFailure, Token, TokenHolder, WaitBudget
from gatepass.tokens.sources.exec import ExecSource
from tests.integration.tokens.programs import LOOPS, children, lives, on, program
from tests.waiting import until

pytestmark = pytest.mark.parametrize("loop", LOOPS)
CLOCK = SystemClock()

KUBECTL = """\
import json, os
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
print(json.dumps({**info, "status": {"token": "k8s-aws-v1.abc", "expirationTimestamp": "2100-01-01T00:00:00Z"}}))
"""
AFTER_A_REFUSAL = """\
import pathlib, sys
runs = pathlib.Path(__file__ + ".runs")
runs.write_text((runs.read_text() if runs.exists() else "") + "x")
sys.exit("could not log in: wrong " + sys.argv[1])
"""


def source(*command: str, **more: Any) -> ExecSource:
    return ExecSource("corp", ExecCredential.model_validate({"type": "exec", "command": list(command), **more}), CLOCK)


def fetched(loop: str, *command: str, **more: Any) -> Token:
    return on(loop, source(*command, **more).fetch())


def failure(loop: str, *command: str, **more: Any) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        fetched(loop, *command, **more)
    return caught.value


def test_a_program_prints_a_token(loop, tmp_path):
    assert fetched(loop, program(tmp_path, "print('abc')")).text == "abc"
    reported = fetched(loop, program(tmp_path, 'print(\'{"accessToken": "abc", "expiresIn": 300}\')'))
    assert (reported.text, reported.lifetime_s) == ("abc", 300.0)


def test_it_is_found_by_the_path_of_its_own_environment(loop, tmp_path, monkeypatch):
    program(tmp_path, "print('abc')", "corp-login")
    assert failure(loop, "corp-login").reason == "corp-login cannot be started: No such file or directory"
    assert fetched(loop, "corp-login", env={"PATH": str(tmp_path)}).text == "abc"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetched(loop, "corp-login").text == "abc"


def test_a_plugin_of_kubectl_works_unchanged(loop, tmp_path):
    info = json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {}})
    token = fetched(loop, program(tmp_path, KUBECTL), env={"KUBERNETES_EXEC_INFO": info})
    assert (token.text, token.lifetime_s) == ("k8s-aws-v1.abc", 3600.0)


def test_failure_has_the_last_line_of_the_program_without_secrets(loop, tmp_path):
    path = program(tmp_path, AFTER_A_REFUSAL)
    config = tmp_path / "gatepass.yaml"
    config.write_text(
        "upstreams: {u: {base_url: 'https://x/v1', credential: c}}\n"
        f"credentials: {{c: {{type: exec, command: ['{path}', '${{PASSWORD}}']}}}}\n".replace("\\\n", "\n")
    )
    settings = load(str(config), {"PASSWORD": "hunter2-and-more"}).config.credentials["c"]
    assert isinstance(settings, ExecCredential)
    with pytest.raises(FetchFailure) as caught:
        on(loop, ExecSource("c", settings, CLOCK).fetch())
    assert caught.value.reason == "get-token ended with exit code 1: could not log in: wrong ***"


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


def test_five_hundred_requests_are_one_run(loop, tmp_path):
    path = program(
        tmp_path,
        "import os\nfd = os.open(__file__ + '.runs', os.O_CREAT | os.O_APPEND | os.O_WRONLY)\n"
        "os.write(fd, b'x')\nprint('abc')",
    )

    async def work() -> None:
        holder = TokenHolder("corp", source(path), CLOCK, Redactor(), WaitBudget(10.0))
        holder.start()
        tokens = await asyncio.gather(*(holder.token() for _ in range(500)))
        assert {token.text for token in tokens} == {"abc"}
        await holder.aclose()

    on(loop, work())
    assert Path(f"{path}.runs").read_text() == "x"


def test_a_program_that_reported_an_outage_is_run_again_within_four_seconds(loop, tmp_path):
    path = program(tmp_path, "import sys\nsys.exit(75)")

    async def work() -> float:
        holder = TokenHolder("corp", source(path), CLOCK, Redactor(), WaitBudget(10.0))
        holder.start()
        await until(lambda: holder.status().failing)
        program(tmp_path, "print('abc')")
        began_s = time.monotonic()
        await until(lambda: holder.usable)
        await holder.aclose()
        return time.monotonic() - began_s

    assert on(loop, work()) < 4.0


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
