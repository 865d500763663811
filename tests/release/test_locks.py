"""Each lock has a wheel for each supported Python on aarch64, and pip installs what it names and nothing else."""

from pathlib import Path

import pytest
from release.build import ROOT, ReleaseFailed, run

UV = {"UV": str(ROOT / ".release/bin/uv")}


def test_locks_resolve_on_aarch64():
    printed = run(ROOT / "requirements/platforms.sh", "aarch64", environment=UV)
    locks = len(list((ROOT / "requirements").glob("*.txt")))
    assert printed == f"{locks} locks resolve for CPython 3.11 to 3.14 on Linux aarch64\n"


def test_a_pin_without_a_wheel_for_linux_fails(tmp_path: Path):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/platforms.sh").write_bytes((ROOT / "requirements/platforms.sh").read_bytes())
    (tmp_path / "requirements/windows.txt").write_text("pywin32==311 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(ReleaseFailed, match=r"windows\.txt: no wheel for 3\.11 on aarch64"):
        run("bash", tmp_path / "requirements/platforms.sh", "aarch64", environment=UV)


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile", "bench/environments.py", "tests/e2e/setup.sh"])
def test_a_lock_is_installed_without_a_search_for_dependencies(file: str):
    installs = [line for line in (ROOT / file).read_text().splitlines() if "--require-hashes" in line]
    assert installs
    assert [line for line in installs if "--no-deps" not in line] == []
