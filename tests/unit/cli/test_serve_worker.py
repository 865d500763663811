"""The output of a worker before it serves; tests/integration/workers runs whole workers."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.serve import KEYS_MARKER, ServeFlags, work
from gatepass.config.references import UnresolvedReference
from gatepass.server.reload import KEYS_LOST
from gatepass.server.supervisor import WorkerOptions


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("gatepass")
    before = (list(root.handlers), root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def heritage(folder: Path, log_format: str) -> WorkerOptions:
    return WorkerOptions(3, 0, log_format, str(folder), listening=0, lifeline=0, control=None)


def logged_text(capsys: pytest.CaptureFixture[str], folder: Path, log_format: str, file: str | None) -> str:
    with pytest.raises(SystemExit) as ended:
        work(heritage(folder, log_format), ServeFlags(file, None, None, None, {}))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_a_line_of_the_log_with_every_problem(tmp_path, capsys):
    file = tmp_path / "gatepass.json"
    file.write_text('{"log": {"format": 1},\n "upstreams": {"a": {}}}')
    problems = [
        f"{file}:1: log.format: expects json or text, not a number",
        f"{file}:2: upstreams.a.base_url: is missing",
    ]
    line = json.loads(logged_text(capsys, tmp_path, "json", str(file)))
    assert (line.pop("ts")[-1], line) == (
        "Z",
        {
            "level": "error",
            "event": "configuration_unusable",
            "worker": 3,
            "file": str(file),
            "problems": problems,
        },
    )
    text = logged_text(capsys, tmp_path, "text", str(file))
    assert text.partition(" error ")[2] == (
        f'  configuration_unusable worker=3 file={file} problems="{",".join(problems)}"\n'
    )


def test_a_file_that_is_named_by_the_environment_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GATEPASS_CONFIG", str(tmp_path / "gone.json"))
    line = json.loads(logged_text(capsys, tmp_path, "json", None))
    assert (line["file"], line["problems"]) == (f"{tmp_path}/gone.json", [f"{tmp_path}/gone.json: does not exist"])
    monkeypatch.delenv("GATEPASS_CONFIG")
    assert json.loads(logged_text(capsys, tmp_path, "json", None))["file"] == "environment"


def test_the_supervisor_alone_logs_warnings_and_a_secret_that_has_gone_is_reported_like_a_problem(
    tmp_path, capsys, monkeypatch
):
    file = tmp_path / "gatepass.json"
    (tmp_path / "store").mkdir()
    file.write_text('{"upstreams": {"a": {"base_url": "http://127.0.0.1:9/v1"}}}')
    monkeypatch.setenv("GATEPASS_KEYS", "a-key-of-nobody")

    def gone(settings, worker_folder, clock):
        assert worker_folder == tmp_path / "store"
        raise UnresolvedReference("it has gone")

    monkeypatch.setattr("gatepass.store.guarded.open_store", gone)
    with pytest.raises(SystemExit):
        work(heritage(tmp_path, "json"), ServeFlags(str(file), None, None, None, {}))
    (refused,) = map(json.loads, capsys.readouterr().err.splitlines())  # GATEPASS_KEYS is set and has no effect
    assert (refused["event"], refused["worker"], refused["file"]) == ("configuration_unusable", 3, str(file))
    assert refused["problems"] == ["a secret of the configuration was removed after loading: it has gone"]


def test_a_file_that_lost_its_keys_is_not_taken_over(tmp_path, capsys):
    file = tmp_path / "gatepass.json"
    file.write_text('{"upstreams": {"a": {"base_url": "http://127.0.0.1:9/v1"}}}')
    (tmp_path / KEYS_MARKER).touch()
    line = json.loads(logged_text(capsys, tmp_path, "json", str(file)))
    assert (line["event"], line["file"], line["problems"]) == ("configuration_unusable", str(file), [KEYS_LOST])


def test_with_a_log_format_every_line_of_serve_follows_it_before_the_configuration_is_read(tmp_path):
    file = tmp_path / "gatepass.json"
    file.write_text('{"upstreams": {"a": {}, "b": {}}}')
    arguments = ["serve", "--config", str(file)]
    with_format = CliRunner().invoke(main, [*arguments, "--log-format", "json"])
    line = json.loads(with_format.stderr)
    assert (with_format.exit_code, line["event"]) == (2, "configuration_unusable")
    assert CliRunner().invoke(main, arguments).stderr.splitlines() == line["problems"]
