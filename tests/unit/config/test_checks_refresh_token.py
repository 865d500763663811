from __future__ import annotations

from typing import Any

import pytest

from gatepass.config.checks import has_unshared_refresh_token
from gatepass.config.model import Config

CORP = {"type": "oauth2", "token_url": "https://sso.example/token", "client_id": "me", "client_secret": "s3cr3t-of-me"}
FIRST = {"grant_type": "refresh_token", "refresh_token": "refresh-token-1"}
STORE = {"store": {"url": "rediss://store.example:6379", "encryption_key": "k" * 32}}


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
