import json
from typing import Any

import pytest

from gatepass.config.checks import (
    COOLDOWN_OF_NO_USE,
    HEADER_SET_TWICE,
    MIXED_VECTORS,
    ONE_ATTEMPT,
    RULES_NEVER_USED,
    SETTING_OF_MODEL_LIST,
    TWICE,
    UNUSED_UPSTREAM,
    WEIGHTS_OF_NO_USE,
    conflicts,
    likely_mistakes,
    placement_of,
)
from gatepass.config.document import ConfigError, dotted
from gatepass.config.load import load
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


def test_static_header_beside_the_token_is_fine():
    assert list(conflicts(config({"headers": {"Ocp-Apim-Subscription-Key": "k", "api-key": "k"}}))) == []
    assert list(conflicts(config({"headers": {"Authorization": "k"}, "token_placement": {"query": "key"}}))) == []
    assert list(conflicts(config({"headers": {"Authorization": "k"}, "credential": None}))) == []


@pytest.mark.parametrize(
    ("header", "token_placement"),
    [("authorization", None), ("X-KEY", {"headers": {"x-key": "{token}"}, "query": "key"})],
)
def test_static_header_of_the_tokens_name_is_refused(header, token_placement):
    found = conflicts(config({"headers": {header: "k"}, "token_placement": token_placement}))
    assert list(found) == [(("upstreams", "chat", "headers", header), HEADER_SET_TWICE.format(header))]


FILE = """
credentials:
  key: {type: static, token: abc, token_placement: {headers: {"a b": "{token}"}}}
upstreams:
  chat:
    base_url: https://llm.example/v1
    credential: key
    token_placement: {query: "a b"}
    headers: {X-Y: "${EMPTY}"}
    rejection: {statuses: [302], codes: ["a b", 1]}
"""
EXPECTED = {
    "credentials.key.token_placement.headers.a b": (
        "expects the name of a header: letters, digits, hyphens and underscores"
    ),
    "upstreams.chat.token_placement.query": "expects the name of a query parameter: letters, digits and . _ ~ -",
    "upstreams.chat.headers.X-Y": "${EMPTY} is empty",
    "upstreams.chat.rejection.statuses[0]": "expects 400 or more",
    "upstreams.chat.rejection.codes[0]": "expects a code as the upstream writes it: letters, digits and . _ : -",
}


def reported(tmp_path, text, **environment):
    file = tmp_path / "gatepass.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), environment)
    return {dotted(problem.path): (problem.text, problem.origin) for problem in caught.value.problems}


def test_a_fault_is_described_at_its_line(tmp_path):
    found = reported(tmp_path, FILE, EMPTY="")
    assert {path: text for path, (text, _) in found.items()} == EXPECTED


def test_a_conflict_is_reported_at_the_static_header(tmp_path):
    text = """
credentials: {key: {type: api_key, key: abc}}
upstreams:
  chat:
    base_url: https://llm.example/v1
    credential: key
    headers:
      Api-Key: abc
"""
    [(path, (message, origin))] = reported(tmp_path, text).items()
    assert (path, message) == ("upstreams.chat.headers.Api-Key", HEADER_SET_TWICE.format("Api-Key"))
    assert str(origin).endswith("8")


def test_operation_that_ragflow_does_not_know_is_refused_at_load():
    rag = {"base_url": "http://rag.example:9380", "dialect": "ragflow"}

    def reported(operation):
        given = {"upstreams": {"rag": rag}, "operations": {operation: {"upstream": "rag"}}}
        return [(dotted(path), text) for path, text in conflicts(Config.model_validate(given))]

    assert reported("embeddings") == [("operations.embeddings.upstream", "rag is RAGFlow, which supports only chat")]
    assert reported("chat") == []


def two_upstreams(**blocks):
    urls = {name: {"base_url": f"https://{name}.example/v1"} for name in ("a", "b")}
    return Config.model_validate({"upstreams": urls, **blocks})


@pytest.mark.parametrize(
    "blocks",
    [
        {"operations": {"embeddings": {"upstream": "b"}}},
        {"operations": {"embeddings": {"upstream": "b"}, "chat": {"rules": {"drop": ["user"]}}}},
        {"models": {"m": {"upstream": "b"}, "n": {"targets": [{"upstream": "b"}]}}},
        {"models": {"*": {"upstream": "b"}}, "operations": {"models": {"upstream": "a"}}},
    ],
)
def test_upstream_without_a_route_causes_a_warning(blocks):
    assert list(likely_mistakes(two_upstreams(**blocks))) == [UNUSED_UPSTREAM.format(name="a")]


@pytest.mark.parametrize(
    "blocks",
    [
        {"operations": {"embeddings": {"upstream": "b"}, "files": {"upstream": "a"}}},
        {"models": {"m": {"targets": [{"upstream": "a"}, {"upstream": "b"}]}}},
        {"models": {"*": {"upstream": "a"}}, "operations": {"embeddings": {"upstream": "b"}}},
    ],
)
def test_upstream_with_a_route_causes_no_warning(blocks):
    assert list(likely_mistakes(two_upstreams(**blocks))) == []


EMBEDDING = {"kind": "embedding"}


@pytest.mark.parametrize(
    ("name", "other", "more"),
    [
        ("text-embedding-3-small", "text-embedding-3-large", {}),
        ("vectors", "bge-m3", {}),
        ("multilingual-e5-large", "multilingual-e5-small", {}),
        ("bge-m3", "bge-large", {"models": {"bge-m3": {"capabilities": EMBEDDING}}}),
        ("bge-m3", "bge-large", {"operations": {"embeddings": {"model": "bge-m3"}}}),
    ],
)
def test_targets_with_different_embedding_models_cause_a_warning(name, other, more):
    def warnings(second):
        targets = {"targets": [{"upstream": "a"}, {"upstream": "b", "name": second}]}
        models = {name: {**targets, **more.get("models", {}).get(name, {})}}
        return list(likely_mistakes(two_upstreams(**{**more, "models": models})))

    assert warnings(other) == [MIXED_VECTORS.format(name, f"{name}, {other}")]
    assert warnings(name) == []


def test_an_embedding_model_with_another_one_for_long_requests_causes_a_warning():
    models = {"e": {"upstream": "a", "capabilities": EMBEDDING, "context_fallback": "f"}, "f": {"upstream": "b"}}
    assert list(likely_mistakes(two_upstreams(models=models))) == [MIXED_VECTORS.format("e", "e, f")]


def test_weights_without_a_policy_that_uses_them_cause_a_warning():
    targets = {"targets": [{"upstream": "a", "weight": 3}, {"upstream": "b"}]}
    for more, expected in (
        ({}, [WEIGHTS_OF_NO_USE.format("m")]),
        ({"policy": "weighted"}, []),
        ({"affinity": "caller"}, []),
    ):
        assert list(likely_mistakes(two_upstreams(models={"m": {**targets, **more}}))) == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"retry": {"attempts": 1}}, [ONE_ATTEMPT.format("m")]),
        ({"retry": {"attempts": 2}}, []),
        (
            {"targets": [{"upstream": "a"}, {"upstream": "b"}, {"upstream": "a", "name": "m"}]},
            [TWICE.format("m", "a/m")],
        ),
        ({"targets": [{"upstream": "a"}, {"upstream": "b"}, {"upstream": "a", "name": "n"}]}, []),
        ({"max_cooldown_s": 20}, [COOLDOWN_OF_NO_USE.format("m")]),
        ({"max_cooldown_s": 20, "targets": [{"upstream": "a"}], "breaker": {}}, [COOLDOWN_OF_NO_USE.format("m")]),
        ({"max_cooldown_s": 20, "breaker": {}}, []),
        ({"max_cooldown_s": 20, "retry": {}}, []),
    ],
)
def test_settings_of_targets_without_an_effect_cause_a_warning(entry, expected):
    models = {"m": {"targets": [{"upstream": "a"}, {"upstream": "b"}], **entry}, "*": {"upstream": "b"}}
    assert list(likely_mistakes(two_upstreams(models=models))) == expected


@pytest.mark.parametrize("fallback", ["g*", "other"])
def test_the_model_for_long_requests_is_an_entry_of_its_own(fallback, tmp_path):
    """Also if an operation has an upstream for all other models: that may be another operation."""
    file = tmp_path / "gatepass.json"
    models = {"m": {"upstream": "a", "context_fallback": fallback}, "g*": {"upstream": "b"}}
    upstreams = {name: {"base_url": f"http://{name}.example/v1", "allow_plain_http": True} for name in "ab"}
    operations = {"embeddings": {"upstream": "b"}}
    file.write_text(json.dumps({"upstreams": upstreams, "models": models, "operations": operations}))
    with pytest.raises(ConfigError, match="context_fallback"):
        load(str(file), {})


def test_targets_with_different_chat_models_cause_no_warning():
    models = {"m": {"targets": [{"upstream": "a", "name": "gpt-4o"}, {"upstream": "b", "name": "prod-4o"}]}}
    assert list(likely_mistakes(two_upstreams(models=models))) == []


def test_single_upstream_without_routes_causes_no_warning():
    rules = {"chat": {"rules": {"drop": ["user"]}}}
    given = {"upstreams": {"a": {"base_url": "https://a/v1"}}, "operations": rules}
    assert list(likely_mistakes(Config.model_validate(given))) == []


@pytest.mark.parametrize("operation", ["transcriptions", "translations", "files"])
def test_rules_for_unchanged_operations_are_refused(operation):
    own = {operation: {"rules": {"drop": ["prompt"]}}}
    blocks: dict[str, Any] = {"upstreams": {"up": {"base_url": "https://llm.example/v1"}}, "operations": own}
    place = ("operations", operation, "rules")
    assert list(conflicts(Config.model_validate(blocks))) == [(place, RULES_NEVER_USED.format(operation))]


def test_settings_without_effect_on_the_model_list_are_refused():
    own = {"models": {"upstream": "up", "model": "m", "timeouts": {"first_byte_s": 1}, "rules": {"drop": ["seed"]}}}
    found = conflicts(
        Config.model_validate({"upstreams": {"up": {"base_url": "https://llm.example/v1"}}, "operations": own})
    )
    assert list(found) == [
        (("operations", "models", name), SETTING_OF_MODEL_LIST) for name in ("rules", "model", "timeouts")
    ]
