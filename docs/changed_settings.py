"""Write the changed settings into docs/upgrade.md: `make reference`. tests/docs/test_upgrade.py compares them."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from docs.generate import setting_links

from gatepass.config.changes import CHANGES, SettingChange
from gatepass.config.document import dotted
from gatepass.config.wording import named

PAGE = Path(__file__).parent / "upgrade.md"
BEGIN, END = "<!-- the changed settings: make reference -->\n", "<!-- end of the changed settings -->"


def with_changes(page: str, changes: tuple[SettingChange, ...] = CHANGES) -> str:
    """Return the page with the list of `changes` between its marks, the newest version first."""
    versions = [(version, list(group)) for version, group in groupby(changes, lambda change: change.version)]
    lines = []
    for version, group in reversed(versions):
        lines += [f"### {version}", "", *(_line(change) for change in group), ""]
    text = "\n".join(lines)
    return re.sub(f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", lambda _: f"\n{text}\n", page, flags=re.DOTALL)


def _line(change: SettingChange) -> str:
    setting = dotted(named(change.setting)).replace("keys.NAME", "keys[]")
    target = setting_links().get(setting)
    link = f"[`{setting}`](reference/{target})" if target else f"`{setting}`"
    return f"- **{link}** ({change.kind}): {change.text}"


def write() -> None:
    PAGE.write_text(with_changes(PAGE.read_text()))


if __name__ == "__main__":
    write()
