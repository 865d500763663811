from typing import Any

from gatepass.config.checks import (
    placement_of,
)
from gatepass.config.model import Config
from gatepass.config.network import BEARER_PLACEMENT, TokenPlacement

KEY = {"type": "static", "token": "abc"}


def config(upstream, credential=KEY):
    base = {"base_url": "https://llm.example/v1", "credential": "key", **upstream}
    return Config.model_validate({"credentials": {"key": credential}, "upstreams": {"chat": base}})


def test_the_placement_of_an_upstream_overrides_the_credentials():
    shared: dict[str, Any] = {"headers": {"X-Key": "{token}"}}
    own: dict[str, Any] = {"query": "key"}
    assert placement_of((it := config({})).upstreams["chat"], it) is BEARER_PLACEMENT
    assert placement_of((it := config({}, {**KEY, "token_placement": shared})).upstreams["chat"], it) == TokenPlacement(
        **shared
    )
    assert placement_of(
        (it := config({"token_placement": own}, {**KEY, "token_placement": shared})).upstreams["chat"], it
    ) == TokenPlacement(**own)
