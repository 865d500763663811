"""A worker without a token is named, whatever the other workers have."""

import json
from itertools import permutations
from pathlib import Path

import pytest

from gatepass.cli import control
from gatepass.cli.reach import Step, StepOutcome
from gatepass.cli.steps import steps_of_running
from gatepass.config.load import load

HELD = {"state": "fresh", "failing": False, "rejected_by": [], "last_error": ""}
LOST = {"state": "none", "failing": True, "rejected_by": [], "last_error": "invalid_client"}
FILE = """
credentials: {corp: {type: static, token: t}}
upstreams: {chat: {base_url: "http://127.0.0.1:9/v1", credential: corp}}
"""


@pytest.mark.parametrize("states", list(permutations([HELD, LOST, {**LOST, "failing": False}])))
def test_the_worker_without_a_token_is_named_in_any_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, states: tuple[object, ...]
):
    (file := tmp_path / "gatepass.yaml").write_text(FILE)
    file.chmod(0o600)
    workers = {f"worker {number}": {"credentials": {"corp": state}} for number, state in enumerate(states)}
    monkeypatch.setattr(control, "socket_of", lambda path: path)
    monkeypatch.setattr(control, "request", lambda *_: json.dumps({"workers": workers}).encode())
    token = Step("credential:corp", "token", StepOutcome.WORKS, "a token")
    (step,) = steps_of_running(load(str(file), {}), [token])
    assert (step.what, step.outcome) == ("running", StepOutcome.FAILS)
    assert "invalid_client" in step.why
