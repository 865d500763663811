"""All pages: each link, command of make and heading exists."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.test_blocks import PAGES

TARGETS = "".join((ROOT / name).read_text() for name in ("Makefile", "bench/bench.mk"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them: lower case, letters of any script, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_command_of_make_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", TARGETS, re.MULTILINE))
    named = {(name_of(page), name) for page in PAGES for name in re.findall(r"`make ([a-z0-9-]+)", page.read_text())}
    assert len(named) > 30
    assert {(page, name) for page, name in named if name not in targets} == set()
