"""The recordings: they show the current questions and steps, are small, and reveal nothing."""

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from docs.record import TITLES
from examples.client import STEPS

from gatepass.cli.init import OF_AUTH, QUESTIONS

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"


def shown(name: str) -> str:
    svg = (IMAGES / f"recording_{name}.svg").read_text()
    rows = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    return "".join(unescape(re.sub(r"<[^>]+>|\s", "", row)) for row in rows)


def joined(text: str) -> str:
    return "".join(text.split())


ASKED = ["base_url", "auth", *OF_AUTH["oauth2"], "embeddings_url", "rerank_url", "clients", "listen"]
DONE = [text for step in STEPS for text in (step.__doc__ or "", f"{step.__name__}:ok")] + ["All steps succeeded."]
HOPS = ("gatepass configuration:", "credential:llm token:", "upstream:llm models:", "upstream:llm stream:")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("init", [*(QUESTIONS[name].text for name in ASKED), "Wrote gatepass.yaml and secrets/llm."]),
        ("demo", DONE),
        ("short", DONE),
        ("doctor", [f"ok   {step}" for step in HOPS]),
    ],
)
def test_a_recording_shows_the_current_questions_and_steps(name: str, expected: list[str]) -> None:
    assert [text for text in expected if joined(text) not in shown(name)] == []


@pytest.mark.parametrize("name", TITLES)
def test_a_recording_is_small_and_shows_nothing_of_the_machine(name: str) -> None:
    file = IMAGES / f"recording_{name}.svg"
    assert file.stat().st_size <= 40_000
    assert ElementTree.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own file
    assert re.findall(r"gp-\w|FAIL|\?\?\?\?|/tmp|/home|eyJ", shown(name)) == []
    assert shown(name).startswith(joined(f"$ {TITLES[name][0]}"))
    page = "README.md" if name == "short" else "docs/getting_started.md"
    assert f"images/{file.name}" in (ROOT / page).read_text()
