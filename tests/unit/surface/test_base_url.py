"""The base URL that a client is told."""

import pytest

from gatepass.surface.base_url import base_url


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        (b"localhost:8080", "http://localhost:8080/v1"),
        (b"gatepass.corp.example", "http://gatepass.corp.example/v1"),
        (b"gate_pass:80", "http://gate_pass:80/v1"),
        (b"[::1]:8080", "http://[::1]:8080/v1"),
        (b"", "/v1"),
        (b"a b", "/v1"),
        (b"evil.example/x?", "/v1"),
        (b"user@evil.example", "/v1"),
        (b"a\x1b[31m", "/v1"),
        (b"a" * 300, "/v1"),
        (b"\xe9.example", "/v1"),
    ],
)
def test_it_has_the_host_that_the_client_wrote_where_that_is_one(host, shown):
    assert base_url(((b"host", host),)) == shown


def test_it_has_no_host_where_there_is_none_or_more_than_one():
    assert base_url(()) == base_url(((b"host", b"a"), (b"host", b"b"))) == "/v1"


@pytest.mark.parametrize(("proto", "scheme"), [(b"https", "https"), (b"http", "http"), (b"javascript", "http")])
def test_a_proxy_may_tell_that_it_speaks_tls(proto, scheme):
    assert base_url(((b"host", b"gw"), (b"x-forwarded-proto", proto))) == f"{scheme}://gw/v1"


def test_it_leads_below_the_base_path_and_to_the_profile():
    assert base_url(((b"host", b"gw"),), "/llm", "dify") == "http://gw/llm/for/dify/v1"
    assert base_url((), "/llm") == "/llm/v1"
