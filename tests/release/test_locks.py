"""Each lock has a wheel for each supported Python on aarch64, and pip installs what it names and nothing else."""

import hashlib
import re
import subprocess
import sys
import zipfile
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


def wheel(folder: Path, name: str, version: str, metadata: str = "") -> str:
    """Write an empty package into `folder`. Return its SHA-256."""
    about = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as files:
        files.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
        files.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        files.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_release_after_the_lock_changes_no_install(tmp_path: Path):
    """The pip of Python 3.11 takes the newest release for an extra of a pinned package, and then rejects its hash."""
    pins = {
        "engine==1.0": wheel(tmp_path, "engine", "1.0", "Provides-Extra: fast\n"),
        "driver==1.0": wheel(tmp_path, "driver", "1.0", "Requires-Dist: engine[fast]>=1.0\n"),
    }
    wheel(tmp_path, "engine", "2.0", "Provides-Extra: fast\n")
    lock = tmp_path / "lock.txt"
    lock.write_text("".join(f"{pin} --hash=sha256:{digest}\n" for pin, digest in pins.items()))
    (command,) = re.findall(r"-m (pip install .*) -r requirements/dev\.txt", (ROOT / "Makefile").read_text())
    options: list[str | Path] = ["--no-index", "--find-links", tmp_path, "--target", tmp_path / "site", "-r", lock]
    run(sys.executable, "-m", "venv", tmp_path / "venv")  # uv makes .venv without pip
    pip = [tmp_path / "venv/bin/python", "-m", *command.split()]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "site").iterdir()} == {"engine-1.0.dist-info", "driver-1.0.dist-info"}


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile", "bench/environments.py", "tests/e2e/setup.sh"])
def test_a_lock_is_installed_without_a_search_for_dependencies(file: str):
    installs = [line for line in (ROOT / file).read_text().splitlines() if "--require-hashes" in line]
    assert installs
    assert [line for line in installs if "--no-deps" not in line] == []
