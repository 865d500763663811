"""A running gatepass without a token is named."""

import json
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


@pytest.mark.parametrize(("state", "found"), [(HELD, 0), (LOST, 1), ({**LOST, "failing": False}, 0)])
def test_a_running_gatepass_without_a_token_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: dict[str, object], found: int
):
    (file := tmp_path / "gatepass.yaml").write_text(FILE)
    file.chmod(0o600)
    monkeypatch.setattr(control, "socket_of", lambda path: path)
    monkeypatch.setattr(control, "request", lambda *_: json.dumps({"credentials": {"corp": state}}).encode())
    token = Step("credential:corp", "token", StepOutcome.WORKS, "a token")
    steps = [*steps_of_running(load(str(file), {}), [token])]
    assert [(step.what, step.outcome, "invalid_client" in step.why) for step in steps] == [
        ("running", StepOutcome.FAILS, True)
    ] * found
