"""What was retired stands nowhere: tests/docs/retired.txt lists the names."""

import subprocess
from pathlib import Path

from docs.entries import Entry
from docs.setting_reference import setting_pages

ROOT = Path(__file__).parents[2]
LIST = ROOT / "tests/docs/retired.txt"
MAY_NAME = {"CHANGELOG.md", "docs/upgrade.md", "tests/docs/retired.txt", "tests/stress/planted_faults.txt"}


PATH = "path "


def names(*, are_paths: bool = False) -> list[str]:
    """Return the retired names, or paths of settings: each line has the row that retired a name, and the name."""
    lines = LIST.read_text().splitlines()
    found = [line.split(" ", 1)[1] for line in lines if line.strip() and not line.startswith("#")]
    return [name.removeprefix(PATH) for name in found if name.startswith(PATH) is are_paths]


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


def test_retired_settings_have_no_entry_in_the_reference():
    entries = (entry for page in setting_pages().values() for entry in page if isinstance(entry, Entry))
    known = {entry.title for entry in entries}
    assert "limits.held_bytes" in known
    assert known & set(names(are_paths=True)) == set()
