"""A test that hangs is ended and named with the line that waits, and the run goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGED = """
import asyncio

async def test_staged():
    await asyncio.Event().wait()  # nobody sets it

def test_beside():
    pass
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_test_with_an_endless_task_is_reported_with_its_line(tmp_path: Path, loop: str):
    (tmp_path / "test_one.py").write_text(STAGED)
    factories = f"def pytest_asyncio_loop_factories():\n    return {{'{loop}': {loop}.new_event_loop}}\n"
    (tmp_path / "conftest.py").write_text(f"import {loop}\n\n{factories}")
    options = (f"--config-file={ROOT}/pyproject.toml", f"--rootdir={tmp_path}", "-o", "hung_after_s=1")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        *options,
        str(tmp_path),
    ]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    report = done.stdout + done.stderr
    assert done.returncode == 1, report
    assert ": this test took too long, while its tasks waited:" in report
    assert "await asyncio.Event().wait()  # nobody sets it" in report
    assert "1 failed, 1 passed" in report
