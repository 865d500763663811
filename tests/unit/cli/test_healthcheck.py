"""`gatepass healthcheck` before it opens a connection."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from gatepass.cli.healthcheck import healthcheck, reachable, variable


@pytest.mark.parametrize(
    ("listens_on", "asked_at"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.1.2.3", "10.1.2.3"),
        ("localhost", "localhost"),
    ],
)
def test_a_wildcard_is_asked_at_its_loopback_and_an_address_at_itself(listens_on: str, asked_at: str) -> None:
    assert reachable(listens_on) == asked_at


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_cannot_be_asked_is_a_usage_error(port: str) -> None:
    result = CliRunner().invoke(healthcheck, [], env={"GATEPASS_PORT": port})
    assert result.exit_code == 2
    assert port in result.output


@pytest.mark.parametrize(
    ("value", "port"), [("9000", "9000"), ("", "8080"), ("tcp://10.96.0.7:8080", "8080"), (None, "8080")]
)
def test_port_of_a_service_link_is_no_port(monkeypatch: pytest.MonkeyPatch, value: str | None, port: str) -> None:
    monkeypatch.delenv("GATEPASS_PORT", raising=False)
    if value is not None:
        monkeypatch.setenv("GATEPASS_PORT", value)
    assert variable("PORT", "8080") == port


def test_healthcheck_brings_in_nothing_of_the_server() -> None:
    """An engine runs it every few seconds: fastapi, pydantic or uvicorn would cost more than the question."""
    code = "import sys, gatepass.cli.healthcheck; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    foreign = set(done.stdout.split()) - sys.stdlib_module_names
    assert {name for name in foreign if not name.startswith(("_", "sitecustomize"))} <= {"click", "gatepass"}
