"""What was retired stands nowhere: tests/docs/retired.txt lists the names."""

import subprocess
from pathlib import Path

from docs.entries import Entry
from docs.setting_reference import setting_pages

ROOT = Path(__file__).parents[2]
LIST = ROOT / "tests/docs/retired.txt"
MAY_NAME = {
    *("CHANGELOG.md", "docs/upgrade.md", "docs/zh/upgrade.md", "src/gatepass/retired.json"),
    *("tests/docs/retired.txt", "tests/unit/config/test_wording.py", "tests/unit/cli/test_commands.py"),
}


PATH = "path "


def names(*, are_paths: bool = False) -> list[str]:
    """Return the retired names, or paths of settings: each line has the row that retired a name, and the name."""
    lines = LIST.read_text().splitlines()
    found = [line.split(" ", 1)[1] for line in lines if line.strip() and not line.startswith("#")]
    return [name.removeprefix(PATH) for name in found if name.startswith(PATH) is are_paths]


def places_of(texts: list[str]) -> set[tuple[str, str]]:
    """Return each file that contains one of `texts`, with the text. A part of a longer name does not count."""
    command = ["git", "grep", "--untracked", "--only-matching", "--null", "-wF", "-f", "-"]
    found = subprocess.run(command, cwd=ROOT, input="\n".join(texts), capture_output=True, text=True, check=True)
    return {(file, text) for file, text in (line.split("\0") for line in found.stdout.splitlines())}


def test_retired_names_stand_nowhere():
    found = places_of(names())
    assert {text for file, text in found if file == str(LIST.relative_to(ROOT))} == set(names())
    assert {(file, text) for file, text in found if file not in MAY_NAME} == set()


def test_retired_settings_have_no_entry_in_the_reference():
    entries = (entry for page in setting_pages().values() for entry in page if isinstance(entry, Entry))
    known = {entry.title for entry in entries}
    assert "limits.held_bytes" in known
    assert known & set(names(are_paths=True)) == set()
