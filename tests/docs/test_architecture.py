"""docs/architecture.md and docs/decisions.md name the modules, packages and layers that there are."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src/gatepass"
PAGE = (ROOT / "docs/architecture.md").read_text()
DECISIONS = (ROOT / "docs/decisions.md").read_text()


def test_every_module_of_the_page_exists() -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", PAGE + DECISIONS))
    files = {name: [SRC / name, ROOT / name, *SRC.rglob(name)] for name in named}  # ROOT: `tests/…`
    missing = [name for name, places in files.items() if not any(place.exists() for place in places)]
    assert (len(named) > 30, missing) == (True, [])


def test_every_package_is_in_the_table() -> None:
    listed = re.findall(r"(?m)^\| `(\w+)/` \|", PAGE.partition("## Packages")[2].partition("\n## ")[0])
    assert sorted(listed) == sorted(file.parent.name for file in SRC.glob("*/__init__.py"))


def test_layers_are_those_of_the_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    shown = PAGE.partition("`make layers` holds it:\n\n```\n")[2].partition("\n```")[0]
    assert shown.splitlines() == [layer.replace(" | ", " · ") for layer in contract["layers"]]
