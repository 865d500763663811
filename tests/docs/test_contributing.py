"""CONTRIBUTING.md, and docs/extending.md: its worked examples, followed to the letter, work and pass the linter."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.waiting import BOUND_S

ROOT = Path(__file__).parents[2]
EXAMPLES = (ROOT / "docs/extending.md").read_text().partition("\n## Worked examples\n")[2].partition("\n## ")[0]
KINDS = {"A token source", "A rule", "A dialect", "A client protocol", "A client profile"}
STEP = re.compile(
    r"as `(?P<file>[\w./]+)`[^`]*(?:`\w+`[^`]*)*```python\n(?P<code>.*?)^```"
    r"|^```diff\n(?P<patch>.*?)^```"
    r"|^```sh\n(?P<command>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
"""A new file with its name in the sentence before, a patch, or a command."""


def steps(example: str) -> Iterator[dict[str, str]]:
    for found in STEP.finditer(example):
        yield {name: text for name, text in found.groupdict().items() if text is not None}


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(cwd / "src")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=BOUND_S)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def patched_files(patch: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each file of a patch with its hunks."""
    for part in re.split(r"^--- a/.+\n", patch, flags=re.MULTILINE)[1:]:
        head, *hunks = re.split(r"^@@\n", part, flags=re.MULTILINE)
        yield head.removeprefix("+++ b/").strip(), hunks


def applied(text: str, hunks: Sequence[str], name: str) -> str:
    """Return the text with each hunk applied at the one place that has its old lines."""
    for hunk in hunks:
        lines = [line or " " for line in hunk.rstrip("\n").split("\n")]
        old = "".join(f"\n{line[1:]}" for line in lines if line[0] in " -") + "\n"
        new = "".join(f"\n{line[1:]}" for line in lines if line[0] in " +") + "\n"
        assert f"\n{text}".count(old) == 1, f"{name} must have these lines once:{old}"
        text = f"\n{text}".replace(old, new)[1:]
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, and of the tests what the examples' tests import."""
    folder = tmp_path_factory.mktemp("contributed") / "gatepass"
    copytree(ROOT / "src", folder / "src")
    copytree(ROOT / "tests", folder / "tests", ignore=ignore_patterns("test_*", "e2e", "fuzz", "stress", "*.pyc"))
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    return folder


def test_the_examples_work_as_they_are_written(copy):
    headings = re.findall(r"(?m)^### (.+)$", EXAMPLES)
    written: list[str] = []
    tests: list[str] = []
    for example in EXAMPLES.split("\n### ")[1:]:
        kinds = [next(iter(step)) for step in steps(example)]
        assert example.count("```") == 2 * len(kinds), f"a block of {example[:20]!r} is not followed: {kinds}"
        for step in steps(example):
            if "patch" in step:
                for name, hunks in patched_files(step["patch"]):
                    (copy / name).write_text(applied((copy / name).read_text(), hunks, name))
                    written.append(name)
            elif "file" in step:
                assert not (copy / step["file"]).exists()
                (copy / step["file"]).write_text(step["code"])
                written.append(step["file"])
            else:
                program, quiet, test = step["command"].split()
                assert (program, quiet) == ("pytest", "-q")
                tests.append(test)
    assert set(headings) == KINDS
    assert len(tests) == len(KINDS)
    reported = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=copy)
    assert "7 passed" in reported
    ruff = str(Path(sys.executable).with_name("ruff"))
    run(ruff, "check", "--no-cache", *written, cwd=copy)
    run(ruff, "format", "--no-cache", "--check", *written, cwd=copy)


@pytest.mark.parametrize("kind", ["A token source", "A dialect", "A client profile"])
def test_a_patch_fits_after_the_first_extension_of_its_kind(kind: str):
    """The second dialect of somebody met lines that the first one had changed."""
    (example,) = [one for one in EXAMPLES.split("\n### ") if one.startswith(kind)]
    for step in steps(example):
        for name, hunks in patched_files(step.get("patch", "")):
            own = [hunk for hunk in hunks if "import " not in hunk]
            applied(applied((ROOT / name).read_text(), own, name), own, name)


def test_every_path_of_contributing_exists():
    named = re.findall(r"`((?:tests|docs|src)/[\w./-]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert (len(named) > 30, [path for path in named if not (ROOT / path.removesuffix("/NAME")).exists()]) == (True, [])


def parsed(file: str) -> Any:
    return YAML(typ="safe", pure=True).load(ROOT / file)


def test_the_workflow_runs_on_each_supported_python():
    workflow = parsed(".github/workflows/check.yml")
    (job,) = workflow["jobs"].values()
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    supported = [
        line.rpartition(" ")[2] for line in classifiers if line.startswith("Programming Language :: Python :: ")
    ]
    assert job["strategy"]["matrix"]["python"] == supported
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
