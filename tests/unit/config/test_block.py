import pytest

from gatepass.config.block import (
    Block,
    checked_base_url,
    checked_url,
    crosses_network_in_plain,
    field_docstrings,
    is_loopback,
)


def test_a_block_without_its_source_has_no_texts():
    assert field_docstrings(type("Made", (Block,), {"__annotations__": {"a": int}, "a": 1, "__module__": "sys"})) == {}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://llm.corp.example/v1", "https://llm.corp.example/v1"),
        ("https://llm.corp.example/v1//", "https://llm.corp.example/v1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("HTTPS://h/x", "HTTPS://h/x"),
    ],
)
def test_a_base_url_is_kept_without_trailing_slashes(text, kept):
    assert checked_base_url(text) == kept


def test_an_issuers_url_keeps_its_trailing_slash_and_its_query():
    assert checked_url("https://sso.corp.example/token/?x=y") == "https://sso.corp.example/token/?x=y"
    assert checked_url("https://sso.corp.example/token/") == "https://sso.corp.example/token/"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST.", "::ffff:127.0.0.1"]
)
def test_these_hosts_are_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "::ffff:10.0.0.1", "127.0.0.1.example"]
)
def test_these_hosts_are_not_this_machine_for_certain(host):
    assert not is_loopback(host)


def test_only_plain_http_beyond_loopback_can_be_read_on_the_way():
    urls = ["http://llm.example/v1", "http://127.0.0.1:1/v1", "https://llm.example/v1"]
    assert [crosses_network_in_plain(url) for url in urls] == [True, False, False]
