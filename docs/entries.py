"""The entries and tables of the pages, the links in their texts, and the files of texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

DOCS = Path(__file__).parent


def read(name: str) -> Any:
    """Return the content of a YAML file in docs/."""
    return YAML(typ="safe").load(DOCS / name)


@dataclass(frozen=True)
class Entry:
    """One heading of a page. `facts` are lines such as `Default: 8080`, by their label."""

    title: str
    purpose: str
    facts: Mapping[str, str]
    danger: str = ""
    note: str = ""
    """Text behind the title, such as the type of credential that has the setting."""
    depth: int = 3
    details: str = ""
    """Paragraphs and lists below the facts."""
    colon: str = ": "
    """What is between the label and the text of a fact."""

    def __post_init__(self) -> None:
        missing = [name for name, text in {"purpose": self.purpose, **self.facts}.items() if not text]
        if self.details.startswith("- "):
            raise ValueError(f"the details of {self.title} begin with a list, which would continue the list of facts")
        if missing:
            raise ValueError(f"{self.title} has no {', '.join(missing)}: add it to the code")

    def __str__(self) -> str:
        facts = "\n".join(f"- {name}{self.colon}{text}" for name, text in self.facts.items())
        danger = f"\n**Danger:** {sentence(self.danger)}\n" if self.danger else ""
        note = f" ({self.note})" if self.note else ""
        details = f"\n{sentence(self.details)}\n" if self.details else ""
        heading = f"{'#' * self.depth} `{self.title}`{note}"
        return f"{heading}\n\n{sentence(self.purpose)}\n{danger}\n{facts}\n{details}"


def sentence(text: str) -> str:
    """Return `text` with a period at its end."""
    return text if not text or text.endswith((".", ":", "`", "。")) else f"{text}."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. A vertical bar in a cell is escaped, and a paragraph becomes a sentence of its cell."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(re.sub(r"\s*\n\s*", " ", cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def listed(names: Iterable[str]) -> str:
    """Return `names` in their order, as code."""
    return ", ".join(f"`{name}`" for name in sorted(names))


def joined(entries: Iterable[Entry | str]) -> str:
    """Return the entries as one text. A text between them is a section with its own heading."""
    return "\n".join(map(str, entries)).strip()


LINK = re.compile(r"\bdocs/([a-z_/]+\.md)((?:#[a-z0-9_-]+)?)", re.IGNORECASE)
"""A page that a docstring names: docs/operations/store.md."""


def unwrapped(text: str) -> str:
    """Join the lines of each paragraph and list item, and make links of the pages that they name."""
    parts = [re.split(r"\n(?=\s*- )", part) for part in re.split(r"\n\s*\n", text.strip())]
    return linked("\n\n".join("\n".join(" ".join(line.split()) for line in part) for part in parts))


def linked(text: str) -> str:
    """Make links of the pages that `text` names, with their titles, from a page in docs/reference/."""

    def link(found: re.Match[str]) -> str:
        titles: list[str] = re.findall(r"^# (.+)$", (DOCS / found[1]).read_text(), re.MULTILINE)
        return f"[{titles[0]}](../{found[1]}{found[2]})"

    return LINK.sub(link, text).replace("(../reference/", "(")
