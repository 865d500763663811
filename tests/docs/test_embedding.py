"""docs/embedding.md and README.md show code that runs, and figures of the servers that are installed."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import gatepass
from tests.docs.blocks import blocks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/embedding.md").read_text()


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "gatepass.yaml").write_text(
        "upstreams: {chat: {base_url: 'http://127.0.0.1:9/v1'}}\nmodels: {m: {upstream: chat}}\n"
    )
    monkeypatch.chdir(tmp_path)


def served_by(app: Any, path: str) -> int:
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        return client.get(path).status_code


@pytest.mark.parametrize(("number", "path"), [(0, "/v1/models"), (1, "/llm/v1/models")])
def test_the_applications_of_the_page_serve(here, number, path):
    names: dict[str, Any] = {}
    exec(blocks(PAGE, "python")[number], names)  # noqa: S102 - the page's own code
    assert served_by(names["app"], path) == 200


def test_the_test_client_of_the_page_is_served(here):
    names: dict[str, Any] = {}
    exec(blocks(PAGE, "python")[0], names)  # noqa: S102 - its own code
    block = next(block for block in blocks(PAGE, "python") if "TestClient" in block)
    exec(block.replace("    client.get", "    answer = client.get"), names)  # noqa: S102 - its own code
    assert names["answer"].status_code == 200


def test_the_public_names_are_documented():
    documented = set(re.findall(r"^\| `gatepass\.(\w+)", PAGE, re.MULTILINE))
    assert documented == set(gatepass.__all__)


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian"])
def test_the_table_is_of_the_installed_version(server):
    """Another version may decide otherwise: measure again, and then change the table's head."""
    assert f"{server} {version(server)} |" in PAGE.partition("## What the server decides")[2]
