import subprocess
import sys

from click.testing import CliRunner

from gatepass import __version__
from gatepass.cli import COMMANDS, CommandEntry, Commands, main

HEAVY = ("pydantic", "fastapi", "starlette", "uvicorn", "httpx2", "ruamel", "msgspec", "prometheus_client", "ssl")


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
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.splitlines()[-1] == "LOADED"


def test_the_version_is_reported():
    assert run("--version").output == f"gatepass, version {__version__}\n"


def test_a_command_without_its_extra_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "gatepass_extra_probe.py").write_text("import gatepass_no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    group = Commands({"show": CommandEntry("gatepass_extra_probe", "Show.", extra="demo")}, name="gatepass")
    result = run("show", group=group)
    assert result.exit_code == 2
    reason = "'show' requires the package gatepass_no_such_library. Run `pip install '.[demo]'`."
    assert reason in result.output
    assert reason in run("show", "--unknown", "x", group=group).output
    described = run("show", "--help", group=group)
    assert described.exit_code == 0
    assert " ".join(described.output.split()).startswith(f"Usage: gatepass show [OPTIONS] Show. {reason}")


def test_a_library_that_is_missing_inside_a_command_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "gatepass_probe.py").write_text("import gatepass_no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    group = Commands({"probe": CommandEntry("gatepass_probe", "")}, name="gatepass")
    result = run("probe", group=group)
    assert isinstance(result.exception, ModuleNotFoundError)
    assert result.exception.name == "gatepass_no_such_library"
