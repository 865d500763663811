import pytest

from gatepass.config.block import (
    checked_base_url,
    checked_proxy_url,
    checked_url,
    crosses_network_in_plain,
    is_loopback,
)


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
    "text",
    [
        *("", "llm.corp.example", "ftp://h", "http://", "https:///v1", "http://h:0", "http://h:99999", "http://h:x"),
        *("http://u:p@h", "http://u@h", "http://h/#x", "http://h/ x", "http://h/\n", "http://höst/", "http://[::1"),
    ],
)
def test_invalid_url_is_refused(text):
    with pytest.raises(ValueError):
        checked_url(text)


@pytest.mark.parametrize("text", ["https://h:topsecretport", "https://[topsecretport"])
def test_a_malformed_url_is_not_quoted(text):
    with pytest.raises(ValueError) as caught:
        checked_url(text)
    assert "topsecret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_base_url_has_no_query():
    assert checked_base_url("https://h/v1/") == "https://h/v1"
    with pytest.raises(ValueError, match="query"):
        checked_base_url("https://h/v1?key=x")


def test_every_fault_of_a_url_is_reported_at_once():
    with pytest.raises(ValueError) as caught:
        checked_base_url("ftp://user:topsecret@h/v1?x=1#y")
    assert str(caught.value) == (
        "expects http://host… or https://host…; "
        "holds a user name or password: put it under credentials; "
        "holds a fragment, a space or a character beyond ASCII; "
        "holds a query: gatepass appends a path to this URL, so end it before the ?"
    )


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


def test_a_proxys_password_is_sent_to_proxy_auth():
    assert checked_proxy_url("http://p:1") == "http://p:1"
    with pytest.raises(ValueError) as caught:
        checked_proxy_url("http://u:topsecret@p:1")
    assert str(caught.value) == "holds a user name or password: put it into proxy_auth"
