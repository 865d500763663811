"""docs/quirks.md has an entry for each change that gatepass reports and for each quirk; its examples are real."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatepass.learning.learned_rule import SAFE
from tests.e2e.quirks.measurement import configuration
from tests.e2e.quirks.row import Row
from tests.e2e.quirks.rows import ROWS
from tests.e2e.quirks.upstream import Upstream
from tests.integration.gateway import CHAT, gateway
from tests.integration.scripted import Scripted

TEXT = (Path(__file__).parents[2] / "docs" / "quirks.md").read_text()
LINES = [line for line in TEXT.splitlines() if line.startswith("|")]
SHOWN = {entry for entry in re.findall(r"`([^`\n]+)`", TEXT.replace("```", "")) if re.match(r"[a-z_]+=\S", entry)}
OF_A_REQUEST = ("drop", "rename", "set", "split", "drop_beta", "images", "rerank", "extra_body")
"""Changes whose value depends on the request: the page has an example of each."""
QUIRKS = {
    1: "Vertex's `ACCESS_TOKEN_EXPIRED`",
    2: "200 with an error object",
    3: "200 with an envelope",
    4: "an HTML page with 200",
    5: "does not support `stream: true`",
    6: "allows no streams to an unverified organization",
    7: "JSON, or JSON labelled as events",
    8: "supports only streams",
    9: "requires a stream for reasoning",
    10: "a stream for a whole reply",
    11: "`max_tokens` (reasoning models)",
    12: "`max_completion_tokens` (old Azure",
    13: "`temperature`, sampling parameters",
    14: "an unknown parameter",
    15: "`stream_options` without a stream",
    16: "`stream_options` (Databricks",
    17: "`encoding_format: base64`",
    18: "accepts at most N inputs",
    19: "does not support `dimensions`",
    20: "does not support token ids",
    21: "accepts only one string",
    22: "the role `developer`",
    23: "the role `system`",
    24: "two messages of one role",
    25: "lists of text parts",
    26: "tool calls with `content: null`",
    27: "`reasoning_content` of an earlier reply",
    28: "`images` outside the messages",
    29: "deltas without `index`",
    30: "`choices` that is empty, null or missing",
    31: "usage in every chunk",
    32: "all text so far in every chunk",
    33: "RAGFlow's `{\"code\": 102}`",
    34: "a 400 in another format",
    35: "429 with `retry-after`",
    36: "404 `DeploymentNotFound`",
    37: "Kong's \"No API key found\"",
    38: "a content filter",
    39: "nine letters and digits",
    40: "a forced `tool_choice`",
    41: "`response_format: json_schema`",
    42: "`parallel_tool_calls`",
    43: "more `max_tokens` than the context has room for",
    45: "unsupported tools",
    46: "comments (`: keep-alive`",
    47: "a last event without a blank line",
    49: "a context that is too long",
    50: "content and finish reason in one chunk",
    51: "an empty body, or only `[DONE]`",
}  # fmt: skip


@pytest.fixture
async def strange() -> AsyncIterator[str]:
    """The upstream with all quirks: the model's name selects one."""
    async with Scripted(answer=Upstream().answer) as upstream:
        yield upstream.url


def is_shown(entry: str) -> bool:
    name = entry.partition("=")[0]
    return entry in SHOWN or (name in OF_A_REQUEST and any(shown.startswith(f"{name}=") for shown in SHOWN))


def row(model: str) -> Row:
    (found,) = [row for row in ROWS if row.model == model]
    return found


def test_every_quirk_has_a_row():
    assert set(QUIRKS) == {row.quirk for row in ROWS} - {0}
    assert [phrase for phrase in QUIRKS.values() if phrase not in TEXT] == []


def test_a_parameter_that_the_page_calls_droppable_is_dropped_without_a_setting():
    (line,) = [line for line in LINES if "an unknown parameter" in line]
    named = set(re.findall(r"`([a-z_]+)`", line))
    assert len(named) == 3
    assert named <= SAFE


async def test_each_adaptation_that_gatepass_reports_for_a_quirk_is_on_the_page(strange: str):
    reported: set[str] = set()
    async with gateway(**configuration(strange)) as served:
        for one in ROWS:
            for way in one.modes:
                path = "/v1/embeddings" if way == "embed" else CHAT
                body = {"model": one.model, **one.request_body(way), "stream": way != "plain"}
                if way == "embed":
                    body = {**body, "encoding_format": "base64"}
                    del body["stream"]
                answer = await served.ask(body, path).answer()
                for name in ("x-gatepass-adapted", "x-gatepass-tried"):
                    reported |= set(filter(None, answer.headers.get(name, "").split(", ")))
    assert len(reported) > 30
    assert sorted(entry for entry in reported if not is_shown(entry)) == []


async def test_the_rejections_of_the_example_end_in_its_headers(strange: str):
    shown = dict(re.findall(r"^ +(x-gatepass-[a-z]+): (.+)$", TEXT, re.MULTILINE))
    body = {"model": "o3-mini", "stream": True, **row("o3-mini").request_body("raw")}
    async with gateway(upstream=strange) as served:
        first = await served.ask(body).answer()
        second = await served.ask(body).answer()
    assert shown == {name: first.headers[name] for name in shown}
    assert len(shown) == 2
    assert second.headers["x-gatepass-adapted"] == shown["x-gatepass-adapted"]
    assert "x-gatepass-attempts" not in second.headers
