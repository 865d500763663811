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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("usage",), "No such command 'usage'. Use the PromQL queries: docs/operations/monitoring.md#usage.\n"),
        (("keys", "rotate"), "No such command 'rotate'. Edit `access.keys`, and run `gatepass reload`"),
        (("token", "--retry"), "No such option --retry. Run `gatepass reload`.\n"),
        (("capture", "--for"), "No such option --for. Write `--minutes N`.\n"),
        (("doctor", "--key"), "No such option --key. Send the curl of the client's page"),
        (("tail", "--caller", "a"), "No such option --caller. Filter the lines"),
        (("migrate",), "No such command 'migrate'.\n"),
        (("keys", "list", "--usage"), "No such option '--usage'.\n"),
    ],
)
def test_a_command_or_option_that_is_gone_says_what_to_do(words, said):
    result = run(*words)
    assert (result.exit_code, said in result.stderr, "Did you mean" in result.stderr) == (2, True, False)


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
