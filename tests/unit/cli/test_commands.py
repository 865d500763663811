import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gatepass import __version__
from gatepass.cli import COMMANDS, main

HEAVY = ("pydantic", "fastapi", "starlette", "uvicorn", "httpx2", "ruamel", "msgspec", "prometheus_client", "ssl")
VALID = "upstreams: {chat: {base_url: 'https://llm.example/v1'}}\n"
NOBODY = 65534


def run(*arguments, group=main):
    return CliRunner().invoke(group, list(arguments))


def test_the_overview_names_every_command_and_the_exit_codes():
    result = run("--help")
    assert result.exit_code == 0
    for name, entry in COMMANDS.items():
        assert f"  {name} " in result.output
        assert entry.summary in result.output
    assert "0 success, 1 a check failed, 2 invalid configuration or" in result.output


def test_the_overview_loads_nothing_heavy():
    program = (
        "import sys; sys.argv = ['gatepass', '--help']\n"
        "from gatepass.cli import main\n"
        "try: main()\n"
        f"finally: print('LOADED', *(name for name in {HEAVY!r} if name in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    assert result.stdout.splitlines()[-1] == "LOADED"


def test_the_version_is_reported():
    assert run("--version").output == f"gatepass, version {__version__}\n"


@pytest.mark.parametrize("words", [("usage",), ("keys", "rotate"), ("keys", "revoke"), ("migrate",)])
def test_a_retired_command_names_the_page_of_what_was_retired(words):
    result = run(*words)
    assert (result.exit_code, "Did you mean" in result.stderr) == (2, False)
    assert f"No such command '{words[-1]}'. docs/upgrade.md#what-was-retired lists the commands" in result.stderr


@pytest.mark.parametrize(
    "words", [("token", "--retry"), ("capture", "--for"), ("doctor", "--key"), ("keys", "list", "--usage")]
)
def test_a_retired_option_names_the_page_of_what_was_retired(words):
    result = run(*words)
    assert result.exit_code == 2
    assert f"No such option '{words[-1]}'. docs/upgrade.md#what-was-retired lists the options" in result.stderr
    assert result.stderr.count("docs/upgrade.md") == 1


@pytest.mark.parametrize(("words", "meant"), [(("chekc",), "check"), (("keys", "lst"), "list"), (("sevre",), "serve")])
def test_a_misspelt_command_is_guessed(words, meant):
    assert f"Did you mean '{meant}'?" in run(*words).stderr


def test_a_file_without_permission(tmp_path):
    file = tmp_path / "input.yaml"
    file.write_text(VALID)
    file.chmod(0)
    run("check")  # imports what it needs, which another user may not read
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(NOBODY)
    try:
        result = run("check", "--config", str(file))
    finally:
        os.seteuid(user)
    assert (result.exit_code, result.stderr.count("Permission denied")) == (2, 1)
