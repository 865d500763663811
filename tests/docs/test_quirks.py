"""docs/quirks.md has an entry for each change that gatepass reports; its examples are real."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatepass.learning.meaning import SAFE
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
