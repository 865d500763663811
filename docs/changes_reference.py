"""Write the tables of the entries of `x-gatepass-adapted`, from docs/texts/changes.yaml."""

from __future__ import annotations

from collections.abc import Mapping

from docs.entries import listed, read, table

from gatepass.learning.learned_rule import SAFE, SAFE_IN_MESSAGES, SAFE_IN_TOOLS
from gatepass.normalize.betas import ENABLED

Changes = Mapping[str, Mapping[str, str]]
TEXTS: Mapping[str, Changes] = read("texts/changes.yaml")
REQUESTS, REPLIES = TEXTS["requests"], TEXTS["replies"]
HEAD = ("entry", "what changed", "learned", "setting", "example")


def change_table(changes: Changes) -> str:
    rows = (
        (f"`{name}`", texts["changed"], texts.get("learned", "yes"), texts.get("setting", "–"), f"`{example}`")
        for name, texts in changes.items()
        for example in [texts.get("example", name)]
    )
    return table(HEAD, rows)


def safe_members() -> str:
    """Return the members that gatepass learns to leave out."""
    return f"""- Members of a request: {listed(SAFE)}, and `dimensions` of embeddings
- Members of messages: {listed(name.removeprefix("messages[].") for name in SAFE_IN_MESSAGES)}
- Members of tools: {listed(name.removeprefix("tools[].") for name in SAFE_IN_TOOLS)}
- Members of `/v1/messages`: {listed(ENABLED)}, and an `output_config` with no other members"""
