"""docs/dialects.md and docs/guides/azure.md: the configurations lead where the pages say, and the texts get advice."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from gatepass.config.load import load
from gatepass.config.upstream import AzureConfig, DialectName, RagflowConfig, UpstreamConfig
from gatepass.dialects.reply_check import ReceivedReply, with_hint
from gatepass.proxy.app_state import dialect_of
from gatepass.proxy.routing import RouteTable
from gatepass.types import Call, Timeouts, UpstreamErrorBody
from tests.docs.blocks import blocks
from tests.rows import CHAT

DOCS = Path(__file__).parents[2] / "docs"
TEXT, GUIDE = (DOCS / "dialects.md").read_text(), (DOCS / "guides/azure.md").read_text()
BLOCKS = blocks(GUIDE, "yaml")
ENVIRONMENT = {"AZURE_KEY": "k-azure-0123456789", "AZURE_CLIENT_SECRET": "s" * 32, "RAGFLOW_KEY": "k" * 32}
ROWS = re.findall(r"^\| (none|a word.*|a date.*) \| `(/openai/[^`]+)` \|", TEXT, re.MULTILINE)


def url_of(text: str, folder: Path) -> str:
    """The URL of a chat with gpt-4o, by the configuration `text`."""
    (folder / "gatepass.yaml").write_text(text)
    loaded = load(str(folder / "gatepass.yaml"), ENVIRONMENT)
    assert loaded.warnings == ()
    (target,) = RouteTable(loaded.config).route("chat", "gpt-4o").targets
    settings = loaded.config.upstreams[target.upstream]
    call = Call("id", CHAT, "me", "gpt-4o", b"{}", ())
    url: str = dialect_of(settings).encode(call, target, settings.base_url, Timeouts()).url
    return url.replace("prod-gpt-4o", "DEPLOYMENT")


@pytest.mark.parametrize(("version", "path"), ROWS)
def test_each_version_has_the_url_of_its_row(tmp_path, version, path):
    assert len(ROWS) == 3
    classic = BLOCKS[1]
    assert "2024-10-21" in classic
    shown = re.search("`(.+)`", version)
    text = classic.replace("2024-10-21", shown[1]) if shown else re.sub(r"\n +azure: \{api_version.*", "", classic)
    assert url_of(text, tmp_path) == f"https://RESOURCE.openai.azure.com{path}"


@pytest.mark.parametrize("end", ["/openai", "/openai/v1", "/v1", "/openai/deployments/NAME"])
def test_a_base_url_of_the_page_leads_to_the_same_url(tmp_path, end):
    assert f"`{end}`" in TEXT
    block = BLOCKS[1].replace("azure.com", f"azure.com{end}")
    assert url_of(block, tmp_path) == url_of(BLOCKS[1], tmp_path)


def test_every_dialect_has_its_row_and_its_section():
    names, table = list(get_args(DialectName)), TEXT.partition("\n| `")[2].partition("\n\n")[0]
    assert re.findall(r"^(?:\| `)?(\w+)` \|", table, re.MULTILINE) == names, (
        "the first table has a row for each dialect"
    )
    assert re.findall(r"^## (\w+)$", TEXT, re.MULTILINE) == names, "each dialect has a section `## NAME`"
    assert UpstreamConfig.model_fields["dialect"].default == "openai"


def test_every_setting_of_a_dialect_is_named():
    pages: dict[type[BaseModel], str] = {
        AzureConfig: TEXT,
        RagflowConfig: (DOCS / "guides/ragflow_upstream.md").read_text(),
    }
    for block, text in pages.items():
        assert [field for field in block.model_fields if f"{field}:" not in text] == []


def test_every_text_of_azure_gets_advice():
    table = GUIDE.partition("| Azure's text |")[2].partition("\n\n")[0]
    texts = re.findall(r"^\| `([^`]+)`(?: \((\d+)[^)]*\))? \|", table, re.MULTILINE)
    assert len(texts) == 6
    replies = [(UpstreamErrorBody(text), ReceivedReply("azure", int(status or 404), ())) for text, status in texts]
    assert [body for body, reply in replies if not with_hint(body, reply.status, reply).advice] == []
