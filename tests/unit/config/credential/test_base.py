import re
from pathlib import Path

import pytest

from gatepass.config.credential.base import checked_extra, how_to_install

ROOT = Path(__file__).parents[4]
DEPLOY = [path for path in ROOT.glob("deploy/**/*") if path.is_file()]
PAGES = (*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/**/*.md"), *DEPLOY, *ROOT.glob("*.md"))


def test_a_missing_library_is_reported_with_the_three_install_commands():
    with pytest.raises(ValueError, match="crypto needs a library") as caught:
        checked_extra("a_library_that_nobody_has", "crypto", "crypto")
    assert str(caught.value).endswith(
        "not installed: pip install \"gatepass[crypto] @ git+REPOSITORY_URL\", in a clone pip install '.[crypto]',"
        " for the image docker build --build-arg EXTRAS=crypto"
    )


def test_no_page_installs_gatepass_from_a_package_index():
    texts = {path: path.read_text() for path in (*PAGES, ROOT / "config.example.yaml") if path.name != "CHANGELOG.md"}
    assert len(texts) > 100
    lines = [(path, line) for path, text in texts.items() for line in text.splitlines()]
    # pip asks no index for the name in front of `@ git+…`
    plain = [(path, re.sub(r"gatepass\[[a-z{}]+\] @ git\+REPOSITORY_URL", "", line)) for path, line in lines]
    named = [(path, line) for path, line in plain if "gatepass[" in line or "pip install gatepass" in line]
    assert [(path, line) for path, line in named if "--no-index" not in line] == []


def test_placements_are_those_of_the_documentation():
    anywhere, clone, image = how_to_install("crypto").split(", ")
    reported = (ROOT / "docs/tokens.md").read_text() + (ROOT / "docs/container.md").read_text()
    assert anywhere in reported
    assert clone.removeprefix("in a clone ") in reported
    assert image.removeprefix("for the image ") in reported
