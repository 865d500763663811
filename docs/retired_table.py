"""The table of names that an earlier version had, from src/gatepass/retired.json, for both pages about the upgrade."""

from __future__ import annotations

import json
import re

from docs.entries import DOCS, table

ROWS = json.loads((DOCS.parent / "src/gatepass/retired.json").read_text(encoding="utf-8"))
HEADS = {"en": ("was", "instead"), "zh": ("原名", "改为")}
PAGE = re.compile(r"docs/((?:zh/)?[a-z_/]+\.md)(#[^\s。；，.]+)?", re.IGNORECASE)


def retired_table(language: str) -> str:
    """Return the table, whose links lead from docs/upgrade.md or docs/zh/upgrade.md."""

    def link(page: re.Match[str]) -> str:
        path, anchor = page[1], page[2] or ""
        shown = path if language == "en" else path.removeprefix("zh/") if path.startswith("zh/") else f"../{path}"
        return f"[{path.removeprefix('zh/')}]({shown}{anchor})"

    rows = ((", ".join(f"`{name}`" for name in row["names"]), PAGE.sub(link, row[language])) for row in ROWS)
    return table(HEADS[language], rows)
