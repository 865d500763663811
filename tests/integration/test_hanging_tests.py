"""A test that hangs is ended and named, the run goes on, and what Hypothesis had found is reported."""

from __future__ import annotations

import os
import subprocess
import sys
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
SHRINKING = """
import time
from hypothesis import given, strategies as st

@given(st.lists(st.integers(), min_size=5))
def test_staged(values):
    time.sleep(0.2)  # so slow that Hypothesis, which tries 60 examples here, cannot shrink to the end
    assert max(values) < 1000, "too large"
"""
WAITING = """
import asyncio

async def test_staged():
    await asyncio.Event().wait()  # nobody sets it
"""
DEAF = """
import signal, time

def test_staged():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(1000)
"""


def output(folder: Path, staged: str, *options: str, hung_after_s: float = 1) -> str:
    """Return the output of a run of `staged` under the root conftest, where a test ends after `hung_after_s`."""
    (folder / "test_one.py").write_text(staged + BESIDE)
    ini = [
        f"--config-file={ROOT}/pyproject.toml",
        f"--rootdir={folder}",
        "-p",
        "tests.conftest",
        "-o",
        f"hung_after_s={hung_after_s}",
    ]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *ini, *options, str(folder)]
    environment = os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "examples"), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_a_property_that_hangs_is_reported_with_its_example(tmp_path):
    report = output(tmp_path, HANGING)
    assert "Hung: this test took too long" in report
    assert "test_staged(\n" in report
    assert "    value=" in report
    assert "1 failed, 1 passed" in report


def test_a_property_that_shrinks_too_long_is_reported_with_the_example_so_far(tmp_path):
    report = output(tmp_path, SHRINKING, hung_after_s=6)  # shrinks for 1.5 s, and the rest is for a busy machine
    assert "AssertionError: too large" in report
    assert "Hung" not in report
    assert "    values=[" in report
    assert "1 failed, 1 passed" in report


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_test_whose_task_waits_for_ever_is_reported_with_the_line(tmp_path, loop):
    (tmp_path / "conftest.py").write_text(LOOP.format(name=loop))
    report = output(tmp_path, WAITING)
    assert ": this test took too long, while its tasks waited:" in report
    assert "await asyncio.Event().wait()  # nobody sets it" in report
    assert "1 failed, 1 passed" in report


def test_a_test_that_ignores_signals_is_named_and_the_run_goes_on(tmp_path):
    report = output(tmp_path, DEAF, "-n", "1", "-o", "faulthandler_timeout=2")
    assert "crashed while running 'test_one.py::test_staged'" in report
    assert "1 failed, 1 passed" in report
