"""docs/dialects.md: each YAML of it can be used as it stands, and its tables say what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest

from gatepass.config.load import load
from gatepass.config.upstream import AzureConfig, DialectName, RagflowConfig, UpstreamConfig
from gatepass.dialects.error_body import RAGFLOW_STATUS, ragflow_status
from gatepass.dialects.hints import with_hint
from gatepass.dialects.ragflow import LIFTED
from gatepass.proxy.app_state import dialect_of
from gatepass.proxy.routing import RouteTable
from gatepass.sse import dialect_transforms as replies
from gatepass.types import Call, ClientProtocol, Operation

TEXT = (Path(__file__).parents[2] / "docs/dialects.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
ENVIRONMENT = {"AZURE_KEY": "k-azure-0123456789", "RAGFLOW_KEY": "ragflow-0123456789"}
CHAT = Operation("chat", "POST", "/chat/completions", ClientProtocol.CHAT, "")
AZURE = "https://RESOURCE.openai.azure.com/openai"
RAGFLOW = "http://ragflow.corp.example:9380/api/v1"


@pytest.mark.parametrize(
    ("block", "urls"),
    [
        (0, {"gpt-4o": f"{AZURE}/v1/chat/completions"}),
        (1, {"gpt-4o": f"{AZURE}/deployments/prod-gpt-4o/chat/completions?api-version=2024-10-21"}),
        (
            2,
            {
                "handbook": f"{RAGFLOW}/openai/2e3b8f0c5d6e11f0a1b20242ac120003/chat/completions",
                "travel-desk": f"{RAGFLOW}/agents/chat/completions",
            },
        ),
    ],
)
def test_each_configuration_loads_and_leads_where_the_page_says(tmp_path, block, urls):
    (tmp_path / "gatepass.yaml").write_text(BLOCKS[block])
    loaded = load(str(tmp_path / "gatepass.yaml"), ENVIRONMENT)
    assert loaded.warnings == ()
    assert len(BLOCKS) == 3
    for model, url in urls.items():
        (target,) = RouteTable.from_config(loaded.config).resolve("chat", model)
        settings = loaded.config.upstreams[target.upstream]
        call = Call("id", CHAT, "me", model, b"{}", ())
        request = dialect_of(settings).encode(call, target, settings.base_url, settings.timeouts.value())
        assert request.url == url


def test_every_dialect_has_its_row():
    assert re.findall(r"^\| `(\w+)` \| [OAt]", TEXT, re.MULTILINE) == list(get_args(DialectName))


def test_every_setting_of_a_dialect_is_named():
    for name, block in (("azure", AzureConfig), ("ragflow", RagflowConfig)):
        section = TEXT.partition(f"\n## {name}\n")[2]
        assert [field for field in block.model_fields if f"{field}:" not in section] == []
    assert UpstreamConfig.model_fields["dialect"].default == "openai"


def test_every_code_has_its_status():
    table = TEXT.partition("| code | status |")[2].partition("\n\n")[0]
    told = {
        int(code): int(status)
        for codes, status in re.findall(r"^\| (.+) \| (\d+) \|$", table, re.MULTILINE)
        for code in re.findall(r"\b1\d\d\b", codes)
        if "own" not in codes
    }
    assert told == dict(RAGFLOW_STATUS)
    assert ragflow_status(102, "You don't own the chat x") == ragflow_status(102, "Agent not found.") == 404


def test_every_change_of_a_reply_has_its_entry():
    assert [name for name in replies.NAMES if f"`{name}`" not in TEXT] == []
    assert [name for name in LIFTED if f"`{name}`" not in TEXT] == []


def test_every_text_of_azure_gets_advice():
    table = TEXT.partition("| the upstream's text |")[2].partition("\n\n")[0]
    texts = re.findall(r"^\| `([^`]+)`(?: \((\d+)[^)]*\))? \|", table, re.MULTILINE)
    assert len(texts) == 6
    assert [text for text, status in texts if with_hint(text, "azure", int(status or 404)) == text] == []
