"""The table of faults: docs/symptoms.yaml as tables of Markdown, for the pages of symptoms and the README files."""

from __future__ import annotations

import re
from typing import Any

from docs.entries import read, table

SECTIONS: list[dict[str, Any]] = read("symptoms.yaml")
HEADS = {
    "en": ("you see", "cause", "next command or setting", "gatepass"),
    "zh": ("你看到", "原因", "下一步命令或设置", "gatepass 的做法"),
}
"""The heads of the columns, by the language."""


def symptoms(language: str) -> str:
    """Return the sections of the page of symptoms."""
    parts: list[str] = []
    for section in SECTIONS:
        shown = section[language]
        rows = ((row[language]["see"], row[language]["cause"], row[language]["action"]) for row in section["rows"])
        shown_rows = table(HEADS[language][:3], rows)
        parts += filter(None, [f"## {shown['title']}", shown["text"], shown_rows, shown.get("after")])
    return "\n\n".join(parts)


def _marked(text: str) -> str:
    """Mark each link of a Chinese text that leads to an English page."""
    return re.sub(r"\]\(\.\./[^)]+\)(?!（英文）)", r"\g<0>（英文）", text)


def readme_table(language: str) -> str:
    """Return the table of README.md or README.zh.md: the rows that say what gatepass does. `short` replaces `see`."""
    rows = [row[language] for section in SECTIONS for row in section["rows"] if "gatepass" in row[language]]
    see, *_, does = HEADS[language]
    shown = table((see, does), ((row.get("short", row["see"]), row["gatepass"]) for row in rows))
    folder = "docs/" if language == "en" else "docs/zh/"
    return _marked(shown).replace("](", f"]({folder}").replace("docs/zh/../", "docs/")
