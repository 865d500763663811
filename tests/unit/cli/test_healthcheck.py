"""`gatepass healthcheck` before it opens a connection."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatepass.cli.healthcheck import HOST, PORT, healthcheck, listening
from gatepass.config.model import ServerConfig


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("server: {host: 0.0.0.0, port: 9000}", ("0.0.0.0", 9000)),
        ("server: {host: '${WHERE}'}", ("${WHERE}", 8080)),
        ("server: {port: 9000}", ("127.0.0.1", 9000)),
        ("server: {}\nupstreams: {a: {base_url: 5}}\ncredentials: '${file:/gone}'", ("127.0.0.1", 8080)),
        ("server: [1]", ("127.0.0.1", 8080)),
    ],
)
def test_healthcheck_reads_only_the_server_block(tmp_path: Path, text: str, place: tuple[str, int]) -> None:
    (tmp_path / "f.yaml").write_text(text)
    assert listening(str(tmp_path / "f.yaml")) == (*place, None, None)


def test_defaults_are_those_of_the_server() -> None:
    assert (ServerConfig().host, ServerConfig().port) == (HOST, PORT)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record the requested addresses, and report each as healthy."""
    places: list[tuple[str, int]] = []

    def well(host: str, port: int, _: float, tls: object) -> None:
        assert tls is None
        places.append((host, port))

    monkeypatch.setattr("gatepass.cli.healthcheck.failure_of", well)
    return places


def test_options_beat_the_environment_and_the_environment_beats_the_file(
    tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("server: {host: '${WHERE}', port: 4}")

    def ask(*options: str, **environment: str) -> tuple[str, int]:
        reported = {f"GATEPASS_{name}": value for name, value in environment.items()}
        result = CliRunner().invoke(healthcheck, list(options), env={"WHERE": "127.0.0.4", **reported})
        assert (result.exit_code, result.output) == (0, "")
        return asked.pop()

    assert ask() == ("127.0.0.1", 8080)
    assert ask("--config", str(file)) == ("127.0.0.4", 4)
    assert ask(CONFIG=str(file)) == ("127.0.0.4", 4)
    assert ask(CONFIG=str(file), PORT="5") == ("127.0.0.4", 5)
    assert ask("--host", "127.0.0.6", CONFIG=str(file), HOST="127.0.0.5") == ("127.0.0.6", 4)
    assert ask("--port", "6", CONFIG="/gone.yaml", HOST="0.0.0.0", PORT="5") == ("127.0.0.1", 6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "Error: {file}: does not exist\n"),
        ("server: {host: '${GONE}'}", "Error: the environment variable GONE is not set"),
        ("server: {port: 0}", "Error: server.port is 0, which picks a free port: set the port with --port\n"),
    ],
)
def test_a_file_that_does_not_show_the_place_is_exit_code_1(
    tmp_path: Path, asked: list[tuple[str, int]], text: str | None, expected: str
) -> None:
    file = tmp_path / "f.yaml"
    if text is not None:
        file.write_text(text)
    result = CliRunner().invoke(healthcheck, ["--config", str(file)])
    assert (result.exit_code, asked) == (1, [])
    assert result.output.startswith(expected.format(file=file))


def test_healthcheck_imports_no_server_module() -> None:
    """An engine runs it every few seconds: fastapi, pydantic or uvicorn would cost more than the question."""
    code = "import sys, gatepass.cli.healthcheck; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180)
    foreign = set(done.stdout.split()) - sys.stdlib_module_names
    assert {name for name in foreign if not name.startswith(("_", "sitecustomize"))} <= {"click", "gatepass"}
