import re
from typing import get_args

import pytest

from gatepass.config.checks import (
    CARRIES_SECRETS,
    PLAIN_HTTP_TO_HOST,
    PLAIN_HTTP_TO_PROXY,
    UNGUARDED,
    api_key_weakness,
    unsafe_settings,
)
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.references import Reference

KEY = {"name": "a", "hash": "sha256:" + "0" * 64}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "gatepass.corp.example", ""])
def test_a_wider_host_without_keys_is_refused(host):
    assert list(unsafe_settings({"server": {"host": host}})) == [(("server", "host"), UNGUARDED)]
    assert list(unsafe_settings({"server": {"host": host}, "access": {"keys": []}})) == [
        (("server", "host"), UNGUARDED)
    ]
    assert list(unsafe_settings({"server": {"host": host}, "access": {"keys": [KEY]}})) == []


@pytest.mark.parametrize(
    "tree", [{}, {"server": {}}, {"server": {"host": "::1"}}, {"server": {"host": 5}}, {"server": []}]
)
def test_loopback_and_invalid_hosts_have_no_fault(tree):
    assert list(unsafe_settings(tree)) == []


def test_secret_over_plain_http_is_refused_beyond_this_machine():
    tree = {
        "upstreams": {
            "bad": {"base_url": "http://llm.example/v1", "credential": "c"},
            "allowed": {"base_url": "http://llm.example/v1", "credential": "c", "allow_plain_http": True},
            "keyless": {"base_url": "http://llm.example/v1"},
            "headers": {"base_url": "http://llm.example/v1", "headers": {"X-Key": "k"}},
            "no headers": {"base_url": "http://llm.example/v1", "headers": {}},
            "near": {"base_url": "http://127.0.0.1:9/v1", "credential": "c"},
            "safe": {"base_url": "https://llm.example/v1", "credential": "c"},
            "broken": {"base_url": "http://[llm", "credential": "c"},
            "number": {"base_url": 5, "credential": "c"},
            "truthy": {"base_url": "http://llm.example/v1", "credential": "c", "allow_plain_http": "yes"},
        },
        "credentials": {
            "oauth": {"token_url": "http://sso.example/token"},
            "found": {"issuer": "http://sso.example"},
            "login": {"url": "http://portal.example/login"},
            "fine": {"url": "http://portal.example/login", "allow_plain_http": True},
        },
    }
    assert dict(unsafe_settings(tree)) == {
        ("upstreams", "bad", "base_url"): PLAIN_HTTP_TO_HOST.format(block="upstreams.bad"),
        ("upstreams", "headers", "base_url"): PLAIN_HTTP_TO_HOST.format(block="upstreams.headers"),
        ("upstreams", "truthy", "base_url"): PLAIN_HTTP_TO_HOST.format(block="upstreams.truthy"),
        ("credentials", "oauth", "token_url"): PLAIN_HTTP_TO_HOST.format(block="credentials.oauth"),
        ("credentials", "found", "issuer"): PLAIN_HTTP_TO_HOST.format(block="credentials.found"),
        ("credentials", "login", "url"): PLAIN_HTTP_TO_HOST.format(block="credentials.login"),
    }


def test_loopback_url_with_a_remote_proxy_is_refused():
    near, far = {"proxy": "http://127.0.0.1:3128"}, {"proxy": "http://proxy.example:3128"}
    local = {"base_url": "http://127.0.0.1:9/v1", "credential": "c"}
    tree = {
        "upstreams": {
            "far": {**local, "network": far},
            "near": {**local, "network": near},
            "allowed": {**local, "network": far, "allow_plain_http": True},
            "keyless": {"base_url": "http://127.0.0.1:9/v1", "network": far},
            "tunnelled": {**local, "base_url": "https://127.0.0.1:9/v1", "network": far},
            "broken": {**local, "network": {"proxy": "http://[proxy"}},
            "number": {**local, "network": {"proxy": 5}},
        },
        "credentials": {
            "oauth": {"token_url": "http://localhost/token", "network": far},
            "login": {"url": "http://[::1]/login", "network": near},
            "bedrock": {"sts_url": "http://localhost/", "network": far},
        },
    }
    assert dict(unsafe_settings(tree)) == {
        ("upstreams", "far", "base_url"): PLAIN_HTTP_TO_PROXY.format(block="upstreams.far"),
        ("credentials", "oauth", "token_url"): PLAIN_HTTP_TO_PROXY.format(block="credentials.oauth"),
        ("credentials", "bedrock", "sts_url"): PLAIN_HTTP_TO_PROXY.format(block="credentials.bedrock"),
    }


HTTPS_ONLY = "authority_host"
"""A validator of its own rejects plain HTTP."""


def test_every_url_of_a_credential_is_checked_for_plain_http():
    settings = [
        (name, repr(field.rebuild_annotation()))
        for block in get_args(get_args(AnyCredential)[0])
        for name, field in block.model_fields.items()
    ]
    urls = {name for name, annotation in settings if re.search(r"\bchecked_(?:base_)?url\b", annotation)}
    assert urls - {HTTPS_ONLY} == {name for block, name in CARRIES_SECRETS if block == "credentials"}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("", "is shorter than 16 characters"),
        ("x" * 15, "is shorter than 16 characters"),
        ("x" * 15 + "é", "holds characters that no header can carry"),
        ("x" * 16 + "\x7f", "holds characters that no header can carry"),
    ],
)
def test_a_weak_key_is_refused(key, expected):
    assert expected in (api_key_weakness(key) or "")


def test_key_of_sixteen_characters_is_accepted():
    assert api_key_weakness("0123456789abcdef") is None


def test_a_key_in_plain_text_is_left_to_the_model():
    assert list(unsafe_settings({"access": {"keys": [{"name": "a", "key": "x"}]}})) == []


def test_each_key_of_a_file_is_checked():
    def faults(text):
        tree = {"access": {"keys": [{"name": "a", "key": Reference.to_variable("K", text)}]}}
        return [path for path, _ in unsafe_settings(tree)]

    place = ("access", "keys", 0, "key")
    assert faults("0123456789abcdef\nfedcba9876543210") == []
    assert faults("0123456789abcdef short other") == [place, place]
    assert faults(" \n") == [place]


def test_hashes_stand_once():
    tree = {
        "access": {
            "keys": [KEY, {"name": "b", "hash": KEY["hash"]}, {"name": "a", "hash": "x"}, {"name": 5}, {"name": 5}]
        }
    }
    assert list(unsafe_settings(tree)) == [
        (("access", "keys", 1, "hash"), "is the hash of an earlier key: each key needs its own"),
    ]
