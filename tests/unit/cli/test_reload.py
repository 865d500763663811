"""The lines of `gatepass reload` and `gatepass status`; tests/integration/test_control.py runs the commands."""

from __future__ import annotations

from typing import Any

import pytest

from gatepass.cli import reload, status

RESULT = {"outcome": "unchanged", "processes": 1, "changed": [], "needs_restart": [], "problems": []}


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ({}, ["Nothing that a reload applies has changed."]),
        ({"outcome": "reloaded", "changed": ["models.m"]}, ["Reloaded. Changed:", "  models.m"]),
        (
            {"needs_restart": ["server.port", "log.level"]},
            ["Nothing that a reload applies has changed.", "These settings need a restart: server.port, log.level"],
        ),
        (
            {"outcome": "refused", "problems": ["g.yaml:3: models.m: is wrong"]},
            ["g.yaml:3: models.m: is wrong", "The configuration was not reloaded: the old one continues."],
        ),
        (
            {"outcome": "refused", "problems": ["worker-2: did not answer"], "changed": ["models.m"]},
            ["worker-2: did not answer", "Only some of the workers have reloaded. Run `gatepass reload` again."],
        ),
        ({"processes": 0}, ["No worker answered. Try again, and search the log for `worker_unresponsive`."]),
    ],
)
def test_the_result_of_a_reload_is_described(result: dict[str, Any], lines: list[str]):
    assert list(reload.lines_of({**RESULT, **result})) == lines


def test_a_failing_credential_is_shown_with_its_error_and_no_control_character():
    held = {"type": "oauth2", "state": "none", "failing": True, "expires_in_s": None, "fetches": 3, "failures": 3}
    credentials = {"corp": {**held, "last_error": "401 \x1b[31mwrong secret"}}
    page = {"ready": False, "draining": False, "in_flight": 0, "credentials": credentials}
    lines = list(status.lines_of({"workers": {"worker-1": page}}))
    assert lines[:2] == ["PROCESS   READY  IN FLIGHT", "worker-1  no     0"]
    assert lines[4].split() == ["worker-1", "corp", "oauth2", "failing", "-", "3", "3"]
    assert lines[5] == "worker-1 corp: 401 �[31mwrong secret"
