"""What README.md shows is so: its configuration loads, and its figures are measured."""

import re
from pathlib import Path

import pytest
from examples.demo import LIFETIME_S, OTHER_STEPS_S

from gatepass.config.load import load
from tests.docs.blocks import blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_configuration_of_the_readme_has_six_lines_and_loads(tmp_path):
    (block,) = blocks(README, "yaml")
    assert len(block.splitlines()) == 6
    file = tmp_path / "gatepass.yaml"
    file.write_text(block.replace("sha256:…", "sha256:" + "0" * 64))
    config = load(str(file), {"CORP_SECRET": "a-secret-of-the-client"}).config
    assert (set(config.upstreams), set(config.credentials)) == ({"chat"}, {"corp"})
    assert [key.profile for key in config.access.keys] == ["ragflow"]


def test_the_figures_of_the_readme_are_those_of_the_benchmarks():
    (sentence,) = re.findall(r"It adds latency: .+", README)
    measured = (ROOT / "docs/benchmarks.md").read_text()
    assert [figure for figure in re.findall(r"[\d.,]*\d(?: ms)?", sentence) if figure not in measured] == []


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/getting_started.md", "Makefile", "CONTRIBUTING.md"),
        *("README.zh.md", "docs/zh/getting_started.md", "examples/README.md"),
    ],
)
def test_the_time_of_the_demo_is_that_of_the_code(page):
    shown = re.findall(r"(?i)(?:demo|演示)[^\n]{0,60}?(\d+) (?:s(?:econds)?\b|秒)(?!, more)", (ROOT / page).read_text())
    assert {float(seconds) for seconds in shown} == {LIFETIME_S + OTHER_STEPS_S}
