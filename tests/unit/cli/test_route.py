from typing import get_args

import pytest

from gatepass.auth.caller import Caller
from gatepass.cli.options import OPERATION_OF_KIND, operation_by_name
from gatepass.cli.route import route_lines
from gatepass.config.model import Config
from gatepass.config.routes import ModelKind

URL = "https://llm.example/v1"


def test_the_changes_are_in_the_order_in_which_a_request_takes_them():
    keys = [{"name": "own", "hash": f"sha256:{'0' * 64}", "profile": "librechat"}]
    rules = {"drop": ["user"], "rename": {"a": "b"}}
    config = Config.model_validate(
        {
            "upstreams": {"up": {"base_url": URL}},
            "models": {"m": {"upstream": "up", "name": "deployed", "rules": rules}},
            "access": {"keys": keys},
        }
    )
    assert route_lines(config, "m", Caller.of_key(config.access.keys[0])) == (
        [
            "chat with the model m, as own",
            "1. to the upstream up, as deployed:",
            "   - profile librechat: drop=tools[].strict, drop=tools[].function.strict",
            "   - rules: rename=a>b, drop=user",
            f"   - POST {URL}/chat/completions, with no credential",
        ],
        True,
    )


@pytest.mark.parametrize("operation", ["embeddings", "rerank", "messages"])
def test_a_given_operation_replaces_that_of_the_name(operation):
    config = Config.model_validate({"upstreams": {"up": {"base_url": URL}}})
    found, is_accepted = route_lines(config, "my-vectors", None, operation)
    assert (found[-1], is_accepted) == (f"   - POST {URL}/{operation}, with no credential", True)


def test_every_kind_of_model_has_an_operation():
    assert set(OPERATION_OF_KIND) == {None, *get_args(ModelKind)}


@pytest.mark.parametrize(
    ("model", "operation"),
    [
        ("gpt-4o", "chat"),
        ("bge-m3", "embeddings"),
        ("multilingual-e5-large", "embeddings"),
        ("bge-reranker-v2", "rerank"),
        ("whisper-1", "transcriptions"),
    ],
)
def test_a_model_without_a_declared_kind_has_the_operation_of_its_name(model, operation):
    assert operation_by_name(model) == operation
