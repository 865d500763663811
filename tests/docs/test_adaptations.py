"""docs/adaptations.md names each entry of x-gatepass-adapted, and shows real output."""

import re
from pathlib import Path

from click.testing import CliRunner
from docs.changes_reference import REPLIES, REQUESTS

from gatepass.cli import main
from gatepass.learning.learned_rule import LearnedRule
from gatepass.normalize import embeddings_reply, rules
from gatepass.normalize.profiles import keep_plain_tools, untype_model
from gatepass.protocols import message_events, responses
from gatepass.protocols.rerank import ConvertRerank
from gatepass.sse import client_transforms, event_stream
from gatepass.sse.choice_repair import NAMES as REPAIRS
from gatepass.sse.dialect_transforms import NAMES as RAGFLOW
from tests.docs.blocks import blocks
from tests.unit.learning.rejections import ROWS

GUIDE = (Path(__file__).parents[2] / "docs" / "adaptations.md").read_text().partition("## Every change")[0]
PLACEHOLDER = {
    "API": "messages|responses",
    "BETA": r"[a-z0-9+-]+",
    "PLACE": r"[A-Za-z_.\[\]]+",
    "OLD": r"[a-z_\[\].]+",
    "NEW": r"[a-z_]+",
    "VALUE": r"\S+",
    "SHAPE": "[a-z]+",
    "TYPE": "[a-z0-9_]+",
    "NAMES": "[a-z_,]+",
    "NAME": "[a-z-]+",
    "N": r"\d+",
}


REPAIR_ENTRIES = {
    *REPAIRS,
    *event_stream.NAMES,
    *message_events.NAMES,
    *responses.NAMES,
    client_transforms.WithoutComments.name,
    *(one.name for one in (client_transforms.PlainEvents, client_transforms.LaterNumbers)),
}


def patterns() -> list[str]:
    named = [*REQUESTS, *REPLIES, "set=PLACE>VALUE", "split=N%"]
    return [re.sub("|".join(PLACEHOLDER), lambda found: PLACEHOLDER[found[0]], re.escape(entry)) for entry in named]


def test_every_entry_is_in_the_table():
    assert len(patterns()) > 15
    learned = (
        LearnedRule("schema", "title"),
        LearnedRule("set", "enable_thinking", "false"),
        LearnedRule("roles", "merged"),
        LearnedRule("roles", "user"),
        LearnedRule("thoughts", "", is_once=True),
        LearnedRule("tools", "web_search_20250305"),
        LearnedRule("rerank", "tei"),
        LearnedRule("beta", "effort-2025-11-24"),
    )
    entries = {rule.entry for rule in learned} | {entry for row in ROWS for entry in row.adapted}
    more = {"default=seed", "set=seed", "images=2", "drop=drop_params", "drop=model_type"}
    made = {
        ConvertRerank().entry,
        untype_model.entry,
        keep_plain_tools.entry,
        "extra_body=reference",
        rules.ADDED,
        *embeddings_reply.NAMES,
        *RAGFLOW,
        *REPAIR_ENTRIES,
    }
    for entry in entries | more | made:
        assert any(re.fullmatch(pattern, entry.partition(",")[0]) for pattern in patterns()), entry


def test_exactly_the_repairs_of_a_stream_are_named():
    assert {name for name in REPLIES if name.startswith(("repair=", "sse="))} == REPAIR_ENTRIES


def test_the_guide_shows_what_gatepass_prints(tmp_path):
    (rules,) = blocks(GUIDE, "yaml")
    (shown,) = blocks(GUIDE, "console")
    upstream = 'credentials: {corp: {type: static, token: "${SECRET}"}}\n'
    upstream += 'upstreams: {chat: {base_url: "https://llm.corp.example/v1", credential: corp}}\n'
    path = tmp_path / "gatepass.yaml"
    path.write_text(upstream + rules)
    printed = (
        CliRunner().invoke(main, ["check", "--route", "gpt-4o", "--config", str(path)], env={"SECRET": "x" * 32}).output
    )
    lines = [line for line in shown.splitlines()[1:] if line != "…"]
    assert len(lines) > 3
    assert [line for line in lines if line not in printed.splitlines()] == []
