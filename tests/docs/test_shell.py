"""The manual page, and what the completion of the page completes in bash, zsh and fish."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docs.command_reference import commands

from gatepass.cli import main

ROOT = Path(__file__).parents[2]
MAN_PAGE = ROOT / "docs/gatepass.1"
RUN_PAGE = (ROOT / "docs/operations/run.md").read_text()
LINES = dict(re.findall(r"^(.*_GATEPASS_COMPLETE=(\w+)_source .*?) +# ", RUN_PAGE, re.MULTILINE))
SHELLS = {shell: line for line, shell in LINES.items()}


def shell(*command: str, **variables: str) -> str:
    """Run with the `gatepass` of this environment first on the PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, env={**os.environ, "PATH": path, **variables}, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_the_manual_page_has_each_command_and_option() -> None:
    text = MAN_PAGE.read_text().replace("\\-", "-")
    for name, command in commands(main, "gatepass"):
        part = text.partition(f'.SS "{name}"\n' if command is not main else ".SH DESCRIPTION\n")[2]
        part = re.split(r"^\.S[SH] ", part, maxsplit=1, flags=re.MULTILINE)[0]
        shown = [
            one for parameter in command.params if not getattr(parameter, "hidden", False) for one in parameter.opts
        ]
        assert [one for one in shown if one.startswith("--") and one not in part] == [], name


@pytest.mark.skipif(shutil.which("man") is None, reason="requires Debian's package man-db")
def test_man_formats_the_page_without_a_warning() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(MAN_PAGE)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert "--config FILE" in done.stdout


def test_the_page_has_a_line_for_each_shell() -> None:
    assert set(SHELLS) == {"bash", "zsh", "fish"}


def test_bash_completes_after_the_line_of_the_page() -> None:
    script = f"""
        {SHELLS["bash"]}
        complete -p gatepass
        COMP_WORDS=(gatepass keys r) COMP_CWORD=2
        _gatepass_completion gatepass
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert shell("bash", "-c", script).splitlines()[1:] == ["revoke", "rotate"]


@pytest.mark.parametrize(
    ("name", "registers"), [("zsh", "compdef _gatepass_completion gatepass"), ("fish", "--command gatepass")]
)
def test_zsh_and_fish_get_a_script_that_registers_and_asks_gatepass(name: str, registers: str) -> None:
    script = shell("gatepass", _GATEPASS_COMPLETE=f"{name}_source")
    assert registers in script
    assert f"_GATEPASS_COMPLETE={name}_complete" in script
    if program := shutil.which(name):
        subprocess.run([program, "-n"], input=script, text=True, timeout=30, check=True)


def test_zsh_and_fish_get_the_commands_with_their_help() -> None:
    zsh = shell("gatepass", _GATEPASS_COMPLETE="zsh_complete", COMP_WORDS="gatepass ke", COMP_CWORD="1")
    fish = shell("gatepass", _GATEPASS_COMPLETE="fish_complete", COMP_WORDS="gatepass ke", COMP_CWORD="ke")
    help_text = "Create, list, rotate and revoke the API..."
    assert zsh.splitlines() == ["plain", "keys", help_text]
    assert fish.splitlines() == [f"plain,keys\t{help_text}"]
