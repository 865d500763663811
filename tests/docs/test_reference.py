"""docs/reference/ is what docs/generate.py writes, and its entries are complete, unique and real."""

import re
import shlex

import click
import pytest
from docs.generate import FOLDER, Entry, commands, pages

from gatepass.cli import main

PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_not_stale(name):
    assert (FOLDER / name).read_text() == PAGES[name], "run `make reference`"


def test_no_page_is_left_over():
    assert {page.name for page in FOLDER.iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_each_heading_has_an_anchor_that_no_other_has(name):
    headings = re.findall(r"^#+ (.+)$", PAGES[name], re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize("lacks", ["purpose", "Type", "Example"])
def test_an_entry_that_lacks_something_is_an_error(lacks):
    given = {"purpose": "The port.", "Type": "whole number", "Example": "`port: 80`", lacks: ""}
    with pytest.raises(ValueError, match=f"server.port has no {lacks}"):
        Entry("server.port", given.pop("purpose"), given)


def test_each_example_of_a_command_is_a_valid_command_line():
    known = dict(commands(main, "gatepass"))
    examples = re.findall(r"^- Example: `(gatepass.*)`$", PAGES["cli.md"], re.MULTILINE)
    shown = set()
    for example in examples:
        words = shlex.split(example)
        name = next(name for n in (3, 2, 1) if (name := " ".join(words[:n])) in known)
        shown.add(name)
        if "--version" not in words:
            known[name].make_context(name, words[len(name.split()) :])
    assert shown >= {name for name, command in known.items() if not isinstance(command, click.Group)}
