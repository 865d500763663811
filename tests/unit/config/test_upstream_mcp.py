"""Tests of the settings of MCP servers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gatepass.config.access import AccessKey, McpLists
from gatepass.config.checks import conflicts, different_keys, secrets_over_plain_http, unknown_names
from gatepass.config.model import Config
from gatepass.config.upstream import McpServer
from gatepass.errors import ModelNotFound
from gatepass.proxy.routing import RouteTable

HASH = "sha256:" + "a" * 64
TREE: dict[str, Any] = {
    "credentials": {"corp": {"type": "static", "token": "t" * 20}},
    "upstreams": {"chat": {"base_url": "https://llm.corp.example/v1"}},
    "mcp": {"wiki": {"url": "https://tools.corp.example/mcp/?team=a", "credential": "corp"}},
}


def test_a_server_is_an_upstream_that_learns_nothing() -> None:
    server = McpServer.model_validate({**TREE["mcp"]["wiki"], "headers": {"X-Team": "a"}, "forward_headers": ["x-b"]})
    upstream = server.as_upstream()
    assert upstream.base_url == "https://tools.corp.example/mcp"
    assert server.url == "https://tools.corp.example/mcp/?team=a"
    assert (upstream.learn, upstream.credential) == ("off", "corp")
    assert (upstream.timeouts.first_byte_s, upstream.timeouts.idle_s, upstream.timeouts.total_s) == (300, 3600, None)
    assert upstream.headers["X-Team"].reveal() == "a"
    assert upstream.forward_headers == ["x-b"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"allowed_origins": ["*"]}, "names no origin"),
        ({"forward_headers": ["cookie"]}, "never forwarded"),
        ({"headers": {"Host": "a"}}, "cannot be set"),
        ({"timeouts": {"total_s": 3}}, "Extra inputs"),
        ({"url": "ftp://a"}, "expects http"),
    ],
)
def test_settings_that_a_server_cannot_have(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        McpServer.model_validate({"url": "https://a", **settings})


@pytest.mark.parametrize(
    ("tree", "path", "fault"),
    [
        (
            {"mcp": {"wiki": {"url": "https://a", "credential": "crop"}}},
            ("mcp", "wiki", "credential"),
            "'crop' is not a name under credentials; did you mean corp?",
        ),
        (
            {"access": {"keys": [{"name": "a", "hash": HASH, "mcp": ["wiki", "wik"]}]}},
            ("access", "keys", 0, "mcp", 1),
            "'wik' is not a name under mcp; did you mean wiki?",
        ),
        (
            {"access": {"keys": [{"name": "a", "hash": HASH, "mcp": {"wik": {}}}]}},
            ("access", "keys", 0, "mcp", "wik"),
            "'wik' is not a name under mcp; did you mean wiki?",
        ),
    ],
)
def test_unknown_names(tree: dict[str, Any], path: tuple[object, ...], fault: str) -> None:
    assert list(unknown_names({**TREE, **tree})) == [(path, fault)]


def test_the_token_needs_https() -> None:
    servers = {"wiki": {"url": "http://tools.corp.example/mcp", "credential": "corp"}}
    [(path, fault)] = secrets_over_plain_http({**TREE, "mcp": servers})
    assert path == ("mcp", "wiki", "url")
    assert "allow_plain_http: true under mcp.wiki" in fault


def test_a_header_that_carries_the_token_cannot_be_static_too() -> None:
    servers = {"wiki": {**TREE["mcp"]["wiki"], "headers": {"authorization": "x"}}}
    config = Config.model_validate({**TREE, "mcp": servers})
    assert [path for path, _ in conflicts(config)] == [("mcp", "wiki", "headers", "authorization")]


def test_keys_of_one_caller_agree_about_servers() -> None:
    keys = [{"name": "a", "hash": HASH, "mcp": ["wiki"]}, {"name": "a", "hash": HASH.replace("a" * 64, "b" * 64)}]
    assert [path for path, _ in different_keys({"access": {"keys": keys}})] == [("access", "keys", 1, "mcp")]
    same = [{"name": "a", "mcp": ["wiki"], "role": "caller"}, {"name": "a", "mcp": {"wiki": {}}}]
    assert list(different_keys({"access": {"keys": same}})) == []


def test_a_key_names_servers_or_lists() -> None:
    key = AccessKey.model_validate({"name": "a", "hash": HASH, "mcp": {"wiki": {"tools": ["find"]}}})
    assert key.mcp == {"wiki": McpLists(tools=["find"])}
    listed = AccessKey.model_validate({"name": "a", "hash": HASH, "mcp": ["wiki"]})
    assert listed.mcp == {"wiki": McpLists()}
    assert listed.model_dump()["mcp"] == ["wiki"]  # as `gatepass check` shows it
    assert key.model_dump()["mcp"]["wiki"]["tools"] == ["find"]


@pytest.mark.parametrize(
    ("mcp", "place"), [("wiki", ("mcp",)), ([1], ("mcp",)), ({"wiki": {"tool": []}}, ("mcp", "wiki", "tool"))]
)
def test_an_error_in_the_servers_of_a_key_names_its_place(mcp: object, place: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as raised:
        AccessKey.model_validate({"name": "a", "hash": HASH, "mcp": mcp})
    assert [error["loc"] for error in raised.value.errors()] == [place]


def test_streams_need_descriptors_only_with_a_server() -> None:
    without = Config.model_validate({"upstreams": TREE["upstreams"]})
    config = Config.model_validate(TREE)
    assert config.descriptors - without.descriptors >= 2 * config.limits.mcp_streams


def test_a_gatepass_for_mcp_servers_alone_needs_no_upstream():
    config = Config.model_validate({"mcp": {"search": {"url": "https://tools.corp.example/mcp"}}})
    assert config.upstreams == {}
    with pytest.raises(ModelNotFound):
        RouteTable(config).resolve("chat", "gpt-4o")


def test_a_gatepass_for_nothing_is_refused():
    with pytest.raises(ValidationError, match="is missing"):
        Config.model_validate({"mcp": {}})
