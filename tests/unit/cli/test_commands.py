import os
import subprocess
import sys

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
