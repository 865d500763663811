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
        "not installed: in a clone pip install '.[crypto]', for the image docker build --build-arg EXTRAS=crypto,"
        ' else pip install "gatepass[crypto] @ git+https://HOST/PATH.git" (with SSH: git+ssh://git@HOST/PATH.git)'
    )


def test_no_page_installs_gatepass_from_a_package_index():
    texts = {path: path.read_text() for path in (*PAGES, ROOT / "config.example.yaml") if path.name != "CHANGELOG.md"}
    assert len(texts) > 100
    lines = [(path, line) for path, text in texts.items() for line in text.splitlines()]
    # pip asks no index for the name in front of `@ git+…`
    plain = [
        (path, re.sub(r"gatepass\[[a-z{}]+\] @ git\+(REPOSITORY_URL|https://HOST/PATH\.git)", "", line))
        for path, line in lines
    ]
    named = [(path, line) for path, line in plain if "gatepass[" in line or "pip install gatepass" in line]
    assert [(path, line) for path, line in named if "--no-index" not in line] == []


SSH = "git+ssh://git@HOST/PATH.git"


def test_no_text_of_the_program_has_the_placeholder_of_pages_and_each_page_with_it_has_the_form_for_ssh():
    assert [
        path for path in ROOT.glob("src/**/*.*") if path.suffix != ".pyc" and b"REPOSITORY_URL" in path.read_bytes()
    ] == []
    pages = {path: path.read_text() for path in (*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"))}
    shown = [path for path, text in pages.items() if "git+REPOSITORY_URL" in text]
    assert len(shown) == 8
    assert [path for path in shown if SSH not in pages[path]] == []


def test_placements_are_those_of_the_documentation():
    clone, image, anywhere = how_to_install("crypto").split(", ")
    reported = (ROOT / "docs/tokens.md").read_text() + (ROOT / "docs/container.md").read_text()
    assert (
        anywhere.removeprefix("else ").partition(" (")[0].replace("https://HOST/PATH.git", "REPOSITORY_URL") in reported
    )
    assert clone.removeprefix("in a clone ") in reported
    assert image.removeprefix("for the image ") in reported
