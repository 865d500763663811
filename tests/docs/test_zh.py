"""The Chinese pages follow the English ones: the same headings, blocks, names and versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.test_errors import codes, statuses

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("getting_started", "ragflow", "errors")
FENCE = re.compile(r"^ *```\w+\n.*?^ *```", re.MULTILINE | re.DOTALL)

CODES = "\n## 常见错误码\n"
"""The section of the most frequent error codes. In English it is a separate page."""


def both(page: str) -> tuple[str, str]:
    english = (DOCS / "reference/errors.md" if page == "errors" else DOCS / f"{page}.md").read_text()
    return english.partition("\n## Errors of the request\n")[0], (DOCS / "zh" / f"{page}.md").read_text()


def anchors(page: Path) -> set[str]:
    """Of the headings, with letters of any script: lower case, without punctuation, hyphens for spaces."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def headings(text: str) -> list[str]:
    return re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_a_chinese_page_has_the_sections_of_the_english_one(page: str) -> None:
    english, chinese = both(page)
    assert headings(chinese.partition(CODES)[0]) == headings(english)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_configurations_are_unchanged(page: str) -> None:
    english, chinese = both(page)
    blocks = [block for block in FENCE.findall(english) if not block.lstrip().startswith("```text")]
    assert [block for block in blocks if block not in chinese] == []


@pytest.mark.parametrize("page", PAGES)
def test_names_versions_and_issues_are_complete(page: str) -> None:
    english, chinese = (FENCE.sub("", text) for text in both(page))
    named = re.compile(r"`([\w./:-]{3,})`|(#\d{3,})|\b(v0\.\d+(?:\.\d+)?)")
    missing = set(named.findall(english)) - set(named.findall(chinese))
    assert missing == set()


def test_the_most_frequent_error_codes_have_their_status() -> None:
    chinese = dict(re.findall(r"^### (\w+)\n(.*)", both("errors")[1].partition(CODES)[2], re.MULTILINE))
    assert len(chinese) >= 10
    assert set(chinese) <= codes()
    for code, first in chinese.items():
        assert not statuses()[code].isdigit() or first.startswith(statuses()[code]), code


@pytest.mark.parametrize("page", PAGES)
def test_each_link_of_a_chinese_page_has_a_target(page: str) -> None:
    file = DOCS / "zh" / f"{page}.md"
    for path, anchor in re.findall(r"\]\((?!https:)([^)#]*)#?([^)]*)\)", file.read_text()):
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
