import re
from typing import Any, get_args

import pytest

from gatepass.config.checks import CARRIES_SECRETS, has_unshared_refresh_token, unsafe_settings
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.model import Config
from gatepass.config.references import Reference

CORP = {"type": "oauth2", "token_url": "https://sso.example/token", "client_id": "me", "client_secret": "s3cr3t-of-me"}
FIRST = {"grant_type": "refresh_token", "refresh_token": "refresh-token-1"}
STORE = {"store": {"url": "rediss://store.example:6379", "encryption_key": "k" * 32}}


def test_every_url_of_a_credential_is_checked_for_plain_http():
    settings = [
        (name, repr(field.rebuild_annotation()))
        for block in get_args(get_args(AnyCredential)[0])
        for name, field in block.model_fields.items()
    ]
    urls = {name for name, annotation in settings if re.search(r"\bchecked_(?:base_)?url\b", annotation)}
    assert urls == {name for block, name in CARRIES_SECRETS if block == "credentials"}


def test_only_a_hash_is_the_hash_of_an_earlier_key():
    for text, paths in ((f"sha256:{'0' * 64}", [("access", "keys", 1, "hash")]), ("sha256:HASH", [])):
        tree = {"access": {"keys": [{"name": "a", "hash": text}, {"name": "b", "hash": text}]}}
        assert [path for path, _ in unsafe_settings(tree)] == paths


def test_each_key_of_a_file_is_checked():
    def faults(text):
        tree = {"access": {"keys": [{"name": "a", "key": Reference.to_variable("K", text)}]}}
        return [path for path, _ in unsafe_settings(tree)]

    place = ("access", "keys", 0, "key")
    assert faults("0123456789abcdef\nfedcba9876543210") == []
    assert faults("0123456789abcdef short other") == [place, place]
    assert faults(" \n") == [place]


@pytest.mark.parametrize(
    ("corp", "blocks", "alone"),
    [
        ({**CORP, **FIRST}, {}, True),
        ({**CORP, **FIRST}, STORE, False),
        ({**CORP, **FIRST, "refresh_token_file": "/var/lib/gatepass/corp"}, {}, False),
        ({**CORP, "refresh_token": "refresh-token-1"}, {}, False),
        ({**CORP, "grant_type": "password", "username": "u", "password": "p"}, {}, False),
        ({"type": "static", "token": "a-key-of-a-test"}, {}, False),
    ],
    ids=["alone", "store", "file", "client credentials too", "password", "static"],
)
def test_refresh_token_is_unshared_without_a_file_or_a_store(corp: dict[str, Any], blocks: dict[str, Any], alone: bool):
    upstreams = {"chat": {"base_url": "https://llm.example/v1", "credential": "corp"}}
    config = Config.model_validate({"credentials": {"corp": corp}, "upstreams": upstreams, **blocks})
    assert has_unshared_refresh_token(config, "corp") is alone
