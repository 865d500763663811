from typing import Any

import pytest

from gatepass.config.access import AccessKey
from gatepass.config.upstream import AzureConfig, McpServer, UpstreamConfig, url_with_version

BASE = {"base_url": "https://llm.example/v1"}
HASH = "sha256:" + "a" * 64
TREE: dict[str, Any] = {
    "credentials": {"corp": {"type": "static", "token": "t" * 20}},
    "upstreams": {"chat": {"base_url": "https://llm.corp.example/v1"}},
    "mcp": {"wiki": {"url": "https://tools.corp.example/mcp/?team=a", "credential": "corp"}},
}


def test_static_headers_may_be_any_but_those_of_one_hop():
    headers = {"AI-Resource-Group": "default", "api-key": "k", "Cookie": "a=b", "User-Agent": "two words", "X_Y": "v"}
    upstream = UpstreamConfig.model_validate({**BASE, "headers": headers})
    assert {name: value.reveal() for name, value in upstream.headers.items()} == headers
    assert "default" not in repr(upstream)
    assert upstream.model_dump()["headers"] == dict.fromkeys(headers, "(hidden)")


def test_a_server_is_an_upstream_that_learns_nothing() -> None:
    server = McpServer.model_validate({**TREE["mcp"]["wiki"], "headers": {"X-Team": "a"}})
    upstream = server.as_upstream()
    assert upstream.base_url == "https://tools.corp.example/mcp"
    assert server.url == "https://tools.corp.example/mcp/?team=a"
    assert (upstream.learn, upstream.credential) == ("off", "corp")
    assert (upstream.timeouts.first_byte_s, upstream.timeouts.idle_s, upstream.timeouts.total_s) == (300, 3600, None)
    assert upstream.headers["X-Team"].reveal() == "a"


def test_a_key_names_servers_or_their_tools() -> None:
    key = AccessKey.model_validate({"name": "a", "hash": HASH, "mcp": {"wiki": ["find"], "search": None}})
    assert key.mcp == key.model_dump()["mcp"] == {"wiki": ["find"], "search": None}
    listed = AccessKey.model_validate({"name": "a", "hash": HASH, "mcp": ["wiki"]})
    assert listed.mcp == {"wiki": None}
    assert listed.model_dump()["mcp"] == ["wiki"]  # as `gatepass check` shows it


@pytest.mark.parametrize(
    ("version", "is_classic"),
    [(None, False), ("v1", False), ("2025-04-01-preview", True)],
)
def test_versions_of_the_classic_api_are_dates(version, is_classic):
    assert AzureConfig(api_version=version).is_classic == is_classic


@pytest.mark.parametrize(
    ("dialect", "base_url", "expected"),
    [
        ("openai", "https://llm.example/", "https://llm.example/v1"),
        ("openai", "https://llm.example/api", "https://llm.example/api/v1"),
        ("openai", "https://llm.example/v4", None),
        ("openai", "https://llm.example/v1beta/openai", None),
        ("azure", "https://llm.example", None),
        ("ragflow", "https://llm.example", None),
    ],
)
def test_a_base_url_without_its_version_gets_one(dialect, base_url, expected):
    assert url_with_version(dialect, base_url) == expected
