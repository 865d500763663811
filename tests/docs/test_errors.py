"""docs/errors.md has one heading for each code that a client can see, and none for another."""

import re
from pathlib import Path

from gatepass import errors

ROOT = Path(__file__).parents[2]
PHASES = ("connect", "first_byte", "idle", "total")


def tree(base):
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


BRANCHES = {errors.CallerError, errors.GatewayError, errors.UpstreamError}
OF_THE_UPSTREAM = {errors.UpstreamErrorReply, errors.UpstreamAuth, errors.UpstreamHtml}
"""Their status is the upstream's own."""


def codes() -> set[str]:
    plain = {kind.code for kind in tree(errors.GatepassError) if kind not in BRANCHES | {errors.UpstreamTimeout}}
    return plain | {f"{errors.UpstreamTimeout.code}_{phase}" for phase in PHASES}


def test_every_code_has_its_heading_and_every_heading_its_code():
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) == codes()


def test_every_heading_names_its_status():
    text = (ROOT / "docs/errors.md").read_text()
    for kind in set(tree(errors.GatepassError)) - BRANCHES - OF_THE_UPSTREAM - {errors.UpstreamTimeout}:
        section = re.search(rf"^### {kind.code}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section is not None
        assert section[1].startswith(str(kind.status)), kind.code
