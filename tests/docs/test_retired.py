"""What was retired stands nowhere: tests/docs/retired.txt lists the names."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = ROOT / "tests/docs/retired.txt"
MAY_NAME = {"CHANGELOG.md", "docs/upgrade.md", "tests/docs/retired.txt", "tests/stress/planted_faults.txt"}


def names() -> list[str]:
    """Return the retired names: each line has the row that retired a name, and the name."""
    lines = LIST.read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines if line.strip() and not line.startswith("#")]


def files_with(text: str) -> set[str]:
    """Return the tracked files that contain `text`. A name does not count as a part of a longer one."""
    found = subprocess.run(
        ["git", "grep", "--untracked", "--files-with-matches", "-wF", "-e", text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode in (0, 1), found.stderr  # 1 if no file contains it
    return set(found.stdout.splitlines())


def test_retired_names_stand_nowhere():
    assert {name: files for name in names() if (files := files_with(name) - MAY_NAME)} == {}
