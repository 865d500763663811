"""A profile in the path."""

import pytest

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN
from gatepass.errors import UnknownPath
from gatepass.operations.table import base_url, select_profile, split_profile


@pytest.mark.parametrize(
    ("path", "base_path", "found"),
    [
        ("/for/dify/v1/chat/completions", "", ("dify", "/v1/chat/completions")),
        ("/for/ragflow/v1/v1/embeddings", "", ("ragflow", "/v1/v1/embeddings")),
        ("/llm/for/dify/v1/models", "/llm", ("dify", "/llm/v1/models")),
        ("/for/dify", "", ("dify", "/")),
        ("//for/dify/v1/models", "", ("dify", "/v1/models")),
        ("/for//dify//v1/models", "", ("dify", "/v1/models")),
        ("/llm//for/dify/v1/models", "/llm", ("dify", "/llm/v1/models")),
        ("/for/dify/v1/models//data/llama", "", ("dify", "/v1/models//data/llama")),
        ("/v1/models/a/for/b", "", (None, "/v1/models/a/for/b")),
        ("/v1/chat/completions", "", (None, "/v1/chat/completions")),
        ("/v1/for/dify", "", (None, "/v1/for/dify")),
        ("/for/dify/v1/models", "/llm", (None, "/for/dify/v1/models")),
    ],
)
def test_path_is_split_into_profile_and_rest(path, base_path, found):
    assert split_profile(path, base_path) == found


def test_path_overrides_the_key_and_both_override_plain():
    assert select_profile(BUILT_IN_PROFILES, "dify", "ragflow") is BUILT_IN_PROFILES["dify"]
    assert select_profile(BUILT_IN_PROFILES, None, "ragflow") is BUILT_IN_PROFILES["ragflow"]
    assert select_profile(BUILT_IN_PROFILES, None, None) is PLAIN


@pytest.mark.parametrize("name", ["", "rag", "x" * 5000])
def test_unknown_profile_is_reported_with_the_known_ones(name):
    with pytest.raises(UnknownPath) as caught:
        select_profile(BUILT_IN_PROFILES, name, "ragflow")
    assert "ragflow" in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        (b"localhost:8080", "http://localhost:8080/v1"),
        (b"gate_pass:80", "http://gate_pass:80/v1"),
        (b"[::1]:8080", "http://[::1]:8080/v1"),
        (b"", "/v1"),
        (b"evil.example/x?", "/v1"),
        (b"a\x1b[31m", "/v1"),
        (b"a" * 300, "/v1"),
    ],
)
def test_base_url_has_the_clients_valid_host(host, shown):
    assert base_url(((b"host", host),)) == shown


def test_base_url_has_no_host_without_exactly_one_host_header():
    assert base_url(()) == base_url(((b"host", b"a"), (b"host", b"b"))) == "/v1"


@pytest.mark.parametrize(("proto", "scheme"), [(b"https", "https"), (b"http", "http"), (b"javascript", "http")])
def test_a_proxy_may_show_that_it_speaks_tls(proto, scheme):
    assert base_url(((b"host", b"gw"), (b"x-forwarded-proto", proto))) == f"{scheme}://gw/v1"


def test_base_url_contains_the_base_path_and_the_profile():
    assert base_url(((b"host", b"gw"),), "/llm", "dify") == "http://gw/llm/for/dify/v1"
    assert base_url((), "/llm") == "/llm/v1"
