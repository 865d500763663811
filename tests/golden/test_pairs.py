"""Pairs of a configuration and what gatepass says of it: config_problems.txt and commands.txt, which state their form.

A new case is a configuration or a command without arrows, which `make golden` adds.
"""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatepass import __version__
from gatepass.cli import main
from gatepass.config.document import ConfigError
from gatepass.config.load import load
from tests.golden.golden import HERE, WRITES

FILE = "gatepass.yaml"
UPSTREAMS = "upstreams: {u: {base_url: 'https://u.example/v1'}}"
INTERNAL = re.compile(r"Traceback|Errno|\b[A-Z]\w+(?:Error|Exception)\b|<class|object at 0x|\[type=|pydantic")
"""Text of Python that no user should see."""


def problems(environment: dict[str, str]) -> list[str]:
    """Return the problems and warnings of the file, if there is one, and of the variables."""
    try:
        found = load(FILE if Path(FILE).exists() else None, environment).warnings
        return [f"warning: {warning.removeprefix(f'{FILE}:')}" for warning in found] or ["valid"]
    except ConfigError as error:
        return [line.removeprefix(f"{FILE}:").strip() for line in str(error).splitlines()]


def outputs(command: str, environment: dict[str, str]) -> list[str]:
    """Return what a command prints, without the lines about its usage, and its exit code if that is not 0."""
    named = ["--config", FILE] if Path(FILE).exists() else []
    result = CliRunner().invoke(main, [*command.split(), *named], env=environment)
    assert result.exit_code != 2 or "--json" in command or result.stdout == "", command
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try '"))]
    end = [f"exit {result.exit_code}"] if result.exit_code else []
    shown = [*result.stdout.splitlines(), *(f"stderr: {line}" for line in lines), *end]
    hidden = {str(Path.cwd()): "FOLDER", __version__: "VERSION"}
    for text, name in hidden.items():
        shown = [line.replace(text, name) for line in shown]
    return [re.sub(r"\d+ defaults", "N defaults", line) for line in shown]


def answered(block: str) -> str:
    """Return a case with the lines that gatepass says of it now."""
    lines = [line for line in block.split("\n") if not line.startswith("→ ")]
    commands = [line for line in lines if line.startswith("> ")]
    expanded = [re.sub(r"HASH-([0-9a-f])", lambda found: f"sha256:{found[1] * 64}", line) for line in lines]
    environment = dict(line[2:].split("=", 1) for line in expanded if line.startswith("$ "))
    written = [line for line in expanded if not line.startswith(("$ ", "> "))]
    if written:
        has_own = any(line.startswith(("upstreams:", "mcp:", "# whole")) for line in written)
        Path(FILE).write_text("\n".join([*written, *([] if has_own else [UPSTREAMS]), ""]))
        Path(FILE).chmod(0o600)
    shown = [line for line in lines if line not in commands]
    said = problems(environment) if not commands else []
    shown += [f"→ {line}" for line in said]
    for command in commands:
        found = outputs(command[2:], environment)
        said += found
        shown += [command, *(f"→ {line}".rstrip() for line in found)]
    Path(FILE).unlink(missing_ok=True)
    text = "\n".join(said)
    assert "topsecret" not in text, block
    assert not INTERNAL.search(text), block
    return "\n".join(shown)


@pytest.mark.parametrize("name", ["config_problems.txt", "commands.txt"])
def test_each_configuration_and_command_has_the_recorded_answer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [variable for variable in os.environ if variable not in ("PATH", "HOME", "LANG")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    head, *blocks = (HERE / name).read_text().rstrip("\n").split("\n\n")
    found = [answered(block) for block in blocks]
    if WRITES:
        (HERE / name).write_text("\n\n".join([head, *found]) + "\n")
    for block, now in zip(blocks, found, strict=True):
        assert WRITES or now == block, "if the change is wanted, run `make golden`, and list it"
