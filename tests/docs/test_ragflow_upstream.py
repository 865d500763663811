"""docs/guides/ragflow_upstream.md: its configuration reaches the documented URLs, and its tables match the code."""

import re
from pathlib import Path

import pytest

from gatepass.config.load import load
from gatepass.config.upstream import RagflowConfig
from gatepass.dialects.error_body import RAGFLOW_STATUS, ragflow_status
from gatepass.dialects.ragflow import LIFTED
from gatepass.proxy.app_state import dialect_of
from gatepass.proxy.routing import RouteTable
from gatepass.sse import dialect_transforms as replies
from gatepass.types import Call
from tests.rows import CHAT

TEXT = (Path(__file__).parents[2] / "docs/guides/ragflow_upstream.md").read_text()
BLOCK = TEXT.partition("```yaml\n")[2].partition("```")[0]


@pytest.mark.parametrize(
    ("paths", "model", "path"),
    [
        ("current", "handbook", "/openai/2e3b8f0c5d6e11f0a1b20242ac120003/chat/completions"),
        ("current", "travel-desk", "/agents/chat/completions"),
        ("old", "handbook", "/chats_openai/2e3b8f0c5d6e11f0a1b20242ac120003/chat/completions"),
        ("old", "travel-desk", "/agents_openai/7f1d2c3b5d6e11f0a1b20242ac120003/chat/completions"),
    ],
)
def test_configuration_routes_to_the_assistant_and_the_agent(tmp_path, paths, model, path):
    (tmp_path / "gatepass.yaml").write_text(BLOCK.replace("paths: current", f"paths: {paths}"))
    config = load(str(tmp_path / "gatepass.yaml"), {"RAGFLOW_KEY": "ragflow-0123456789"}).config
    (target,) = RouteTable(config).resolve("chat", model)
    settings = config.upstreams[target.upstream]
    call = Call("id", CHAT, "me", model, b"{}", ())
    request = dialect_of(settings).encode(call, target, settings.base_url, settings.timeouts.value())
    assert request.url == f"http://ragflow.corp.example:9380/api/v1{path}"


def test_every_setting_of_the_dialect_is_named():
    assert [field for field in RagflowConfig.model_fields if f"{field}:" not in TEXT] == []


def test_every_code_has_its_status():
    table = TEXT.partition("| code | status |")[2].partition("\n\n")[0]
    reported = {
        int(code): int(status)
        for codes, status in re.findall(r"^\| (.+) \| (\d+) \|$", table, re.MULTILINE)
        for code in re.findall(r"\b1\d\d\b", codes)
        if "own" not in codes
    }
    assert reported == dict(RAGFLOW_STATUS)
    assert ragflow_status(102, "You don't own the chat x") == ragflow_status(102, "Agent not found.") == 404


def test_every_change_has_its_entry():
    assert [name for name in (*replies.NAMES, *LIFTED) if f"`{name}`" not in TEXT] == []
