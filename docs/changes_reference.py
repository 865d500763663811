"""Write the tables of the entries of `x-gatepass-adapted`, from docs/texts/changes.yaml."""

from __future__ import annotations

from collections.abc import Mapping

from docs.entries import listed, read, table

from gatepass.learning.meaning import SAFE, SAFE_IN_MESSAGES, SAFE_IN_TOOLS
from gatepass.normalize.betas import ENABLED

Changes = Mapping[str, Mapping[str, str]]
TEXTS: Mapping[str, Changes] = read("texts/changes.yaml")
REQUESTS, REPLIES = TEXTS["requests"], TEXTS["replies"]
HEAD_OF_REQUESTS = ("entry", "what changed", "learned", "setting")
HEAD_OF_REPLIES = ("entry", "what changed", "only by")


def request_table() -> str:
    rows = (
        (f"`{name}`", texts["changed"], texts.get("learned", "yes"), texts.get("setting", "–"))
        for name, texts in REQUESTS.items()
    )
    return table(HEAD_OF_REQUESTS, rows)


def reply_table() -> str:
    rows = ((f"`{name}`", texts["changed"], texts.get("only", "")) for name, texts in REPLIES.items())
    return table(HEAD_OF_REPLIES, rows)


def safe_members() -> str:
    """Return the members that gatepass learns to leave out."""
    meaning = "[meaning](concepts/learned_rules.md#what-gatepass-never-leaves-out)"
    others = (name for name in ENABLED if name not in SAFE | SAFE_IN_TOOLS and "cache_control" not in name)
    return f"""- Members of a request that carry no {meaning}, such as {listed(SAFE)}, and `dimensions` of embeddings
- `cache_control` at any place, with its `scope` and `ttl`
- Members of messages: {listed(name.removeprefix("messages[].") for name in SAFE_IN_MESSAGES)}
- Members of tools: {listed(name.removeprefix("tools[].") for name in SAFE_IN_TOOLS)}
- Members of `/v1/messages`: {listed(others)}, and an `output_config` with no other members"""
