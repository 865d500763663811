"""What README.md shows is so: its configuration loads, and its figures are measured."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from examples.demo import LIFETIME_S, OTHER_STEPS_S

from gatepass.cli.keys import keys
from gatepass.config.document import ConfigError
from gatepass.config.load import load
from tests.docs.blocks import blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh.md").read_text()


@pytest.mark.parametrize("page", [README, CHINESE], ids=["README.md", "README.zh.md"])
def test_the_file_of_the_readme_has_four_lines_and_its_command_adds_the_key(page, tmp_path, monkeypatch):
    """With the placeholder of a hash in it, the command refused the file."""
    (block,) = blocks(page, "yaml")
    assert len(block.splitlines()) == 4
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "gatepass.yaml"
    file.write_text(block)
    shell = next(one for one in blocks(page, "sh") if "keys new" in one)
    export, create, serve = (shlex.split(line, True) for line in shell.splitlines())
    assert (create[:2], serve) == (["gatepass", "keys"], ["gatepass", "serve"])
    result = CliRunner().invoke(keys, create[2:])
    assert result.exit_code == 0, result.output
    config = load(None, dict([export[1].split("=")])).config
    assert (set(config.upstreams), set(config.credentials)) == ({"chat"}, {"corp"})
    assert [key.profile for key in config.access.keys] == ["ragflow"]


def test_the_figures_of_the_readme_are_those_of_the_benchmarks():
    measured = (ROOT / "docs/benchmarks.md").read_text()
    for page, names in ((README, ("Added latency", "Memory")), (CHINESE, ("额外延迟", "内存"))):
        for name in names:
            (sentence,) = re.findall(rf"\*\*{name}.+", page)
            figures = re.findall(r"[\d.,]*\d (?:ms|MB|KiB)", sentence)
            assert len(figures) == 2
            assert [figure for figure in figures if figure not in measured] == []


@pytest.mark.parametrize("page", [README, CHINESE], ids=["README.md", "README.zh.md"])
def test_the_start_without_a_file_has_six_variables_and_loads(page):
    block = next(one for one in blocks(page, "sh") if "GATEPASS_UPSTREAM_URL" in one)
    exported = [
        word for line in block.splitlines() if line.startswith("export") for word in shlex.split(line, True)[1:]
    ]
    variables = dict(word.split("=", 1) for word in exported)
    assert len(variables) == 6
    config = load(None, variables | {"GATEPASS_KEYS": "k" * 16}).config
    assert (set(config.upstreams), [key.profile for key in config.access.keys]) == ({"chat"}, ["ragflow"])
    with pytest.raises(ConfigError, match="shorter than 16 characters"):
        load(None, variables | {"GATEPASS_KEYS": "k" * 15})


def test_the_readme_has_at_most_750_words_in_the_order_of_its_readers():
    shown = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", README)
    assert len([word for word in shown.split() if re.search(r"\w", word)]) <= 750
    order = (
        *("RAGFlow, Dify, Open WebUI", "overview.svg", "credentials:", "GATEPASS_UPSTREAM_URL", "make demo ONCE=1"),
        *("make test", "Added latency", "Memory", "No database", "pip install", "docker build", "gatepass doctor"),
        *("from openai import", "| you see |", "| you want to |", "Report a vulnerability"),
    )
    at = [README.index(text) for text in order]
    assert at == sorted(at)
    (table,) = re.findall(r"\| you see \|.+?<!-- end", README, re.DOTALL)
    assert len(re.findall(r"^\| ", table, re.MULTILINE)) == 1 + 8


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/getting_started.md", "Makefile", "CONTRIBUTING.md"),
        *("README.zh.md", "docs/zh/getting_started.md", "examples/README.md"),
    ],
)
def test_the_time_of_the_demo_is_that_of_the_code(page):
    shown = re.findall(r"(?i)(?:demo|演示)[^\n]{0,60}?(\d+) (?:s(?:econds)?\b|秒)(?!, more)", (ROOT / page).read_text())
    assert {float(seconds) for seconds in shown} == {LIFETIME_S + OTHER_STEPS_S}


def stand_in(file: Path, version: str) -> Path:
    """Write a Python that says it is of `version`, whose environments run code and print other commands."""
    code = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 0); exec(sys.argv[1])"
    inner = f'#!/bin/sh\nif [ "$1" = -c ]; then exec {sys.executable} -c "{code}" "$2"; fi\necho "{version}: $@"\n'
    file.write_text(
        f"#!/bin/sh\nmkdir -p $3/bin\n[ -e $3/bin/python ] || cat > $3/bin/python <<'END'\n{inner}END\n"
        "chmod +x $3/bin/python\n"
    )
    file.chmod(0o755)
    return file


@pytest.mark.parametrize("target", ["demo", "setup"])
def test_an_old_python_gets_one_sentence_and_leaves_no_environment(target, tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("bench", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)

    def make(version: str) -> subprocess.CompletedProcess[str]:
        python = stand_in(tmp_path / f"python{version}", version)
        command = ["make", "-C", tmp_path, target, "ONCE=1", "UV=", f"PYTHON={python}"]
        # as outside `make test`, which would count the levels of make
        outside = {
            name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        }
        return subprocess.run(command, env=outside, capture_output=True, text=True, check=False, timeout=60)

    old = make("3.10")
    said, stopped = old.stderr.splitlines()
    assert said == (
        f"gatepass requires Python 3.11 or newer, and {tmp_path}/python3.10 is 3.10. "
        "Add PYTHON=python3.11 (or newer) to the command."
    )
    assert (old.returncode, "Downloading" in old.stdout, stopped.startswith("make: ***")) == (2, False, True)
    assert list(tmp_path.glob(".venv*")) == []
    new = make("3.12")
    assert (new.returncode, "3.12: -m pip install --quiet" in new.stdout) == (0, True), new.stdout + new.stderr
    assert ("3.12: examples/demo.py --once" in new.stdout) is (target == "demo")
