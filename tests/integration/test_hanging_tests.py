"""A test that hangs is ended and named, the run goes on, and what Hypothesis had found is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BESIDE = """

def test_beside():
    pass
"""
LOOP = """
import {name}

def pytest_asyncio_loop_factories():
    return {{"{name}": {name}.new_event_loop}}
"""
HANGING = """
import time
from hypothesis import given, strategies as st

@given(st.integers())
def test_staged(value):
    while value > 100:
        time.sleep(0.01)
"""
WAITING = """
import asyncio

async def test_staged():
    await asyncio.Event().wait()  # nobody sets it
"""


@dataclass(frozen=True)
class StagedRun:
    """A run of `staged` under the root conftest, where a test ends after a second."""

    staged: str
    conftest: str = ""

    def start(self, folder: Path) -> subprocess.Popen[str]:
        (folder / "test_one.py").write_text(self.staged + BESIDE)
        (folder / "conftest.py").write_text(self.conftest)
        ini = [
            f"--config-file={ROOT}/pyproject.toml",
            f"--rootdir={folder}",
            "-p",
            "tests.conftest",
            "-o",
            "hung_after_s=1",
        ]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *ini, str(folder)]
        environment = os.environ | {"COLUMNS": "200"}  # the table of characters of Hypothesis is that of these tests
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


RUNS = {
    "hanging": StagedRun(HANGING),
    "asyncio": StagedRun(WAITING, conftest=LOOP.format(name="asyncio")),
    "uvloop": StagedRun(WAITING, conftest=LOOP.format(name="uvloop")),
}


def output(name: str, folder: Path) -> str:
    """Return the output of a run, in which a test failed. Only one runs at a time, so that each has its time."""
    with RUNS[name].start(folder) as process:
        try:
            report, _ = process.communicate(timeout=180)
        finally:
            process.kill()
    assert process.returncode == 1, report
    return report


def test_a_property_that_hangs_is_reported_with_its_example(tmp_path):
    report = output("hanging", tmp_path)
    assert "Hung: this test took too long" in report
    assert "test_staged(\n" in report
    assert "    value=" in report
    assert "1 failed, 1 passed" in report


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_test_with_an_endless_task_is_reported_with_its_line(tmp_path, loop):
    report = output(loop, tmp_path)
    assert ": this test took too long, while its tasks waited:" in report
    assert "await asyncio.Event().wait()  # nobody sets it" in report
    assert "1 failed, 1 passed" in report
