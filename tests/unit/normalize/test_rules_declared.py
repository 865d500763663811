"""Declared rules: which model has which, and what they do together."""

import json
import tracemalloc
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.config.routes import Model
from gatepass.errors import InvalidRequest
from gatepass.normalize.rules import CACHED_MODELS, ChangeRule, DeclaredModels, normalize
from tests.rows import EMBEDDINGS
from tests.unit.normalize.calls import TARGET, a_call


def config(**blocks: Any) -> Config:
    return Config.model_validate({"upstreams": {"chat": {"base_url": "https://h/v1"}}, **blocks})


def model(**members: Any) -> Model:
    return Model.model_validate({"upstream": "chat", **members})


RULES: dict[str, Any] = {
    "rename": {"max_tokens": "max_completion_tokens"},
    "drop": ["temperature", "messages[].name"],
    "default": {"seed": 7, "user": "é"},
    "set": {"extra_body.think": False, "seed": 8},
    "clamp": {"top_p": {"min": 0.1, "max": 1}},
    "schema_in_words": True,
    "roles": {"developer": "system"},
    "replayed": "drop",
    "text_content": True,
    "empty_content": True,
    "merge_roles": True,
    "short_tool_ids": True,
}


def test_rules_are_made_in_their_order_and_named():
    (revision,) = DeclaredModels(config(models={"m": model(rules=RULES, stream=False)})).rules("chat", "m")
    body = {
        "model": "m",
        "stream": True,
        "max_tokens": 5,
        "temperature": 1,
        "top_p": 0,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "d"}]},
            {"role": "user", "content": "a", "name": "n"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [{"id": "call_abc"}]},
        ],
    }
    adapted = normalize(a_call(json.dumps(body).encode(), stream=True), TARGET, [revision])
    words = "Answer with one JSON object that fits this JSON Schema, and with nothing else:\n{}"
    assert json.loads(adapted.body) == {
        "model": "m",
        "stream": False,
        "max_completion_tokens": 5,
        "top_p": 0.1,
        "response_format": {"type": "json_object"},
        "seed": 8,
        "user": "é",
        "extra_body": {"think": False},
        "messages": [
            {"role": "system", "content": f"d\n\n{words}"},
            {"role": "user", "content": "a\n\nb"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "uCUSbrUmq"}]},
        ],
    }
    assert not adapted.stream
    assert adapted.adapted == (
        *("stream=synth", "rename=max_tokens>max_completion_tokens", "drop=temperature", "drop=messages[].name"),
        *("default=seed", "default=user", "set=extra_body.think", "set=seed", "clamp=top_p"),
        *("response_format=json_object", "role=developer>system", "drop=replayed"),
        *("content=empty", "roles=merged", "tool_ids=short"),
    )


def test_the_entry_is_the_one_that_the_route_takes():
    marks = {
        name: model(rules={"drop": [mark]}) for name, mark in (("gpt", "a"), ("gpt*", "b"), ("g*", "c"), ("*", "d"))
    }
    declared = DeclaredModels(config(models=marks, operations={"embeddings": {"upstream": "chat"}}))

    for operation, name, drops in (
        *(("chat", "gpt", ["drop=a"]), ("chat", "gpt-4o", ["drop=b"]), ("chat", "gemini", ["drop=c"])),
        *(("chat", "other", ["drop=d"]), ("chat", "*", ["drop=d"]), ("embeddings", "gpt", ["drop=a"])),
        ("embeddings", "bge", []),
    ):
        assert entries(declared, operation, name) == drops
    assert declared.model("chat", "other") == marks["*"]
    assert declared.model("embeddings", "bge") is None
    assert DeclaredModels(config()).model("chat", "m") is None


def test_token_ids_are_refused_for_a_model_without_them():
    entry = model(capabilities={"token_ids": False}, rules={"drop": ["user"]})
    declared = DeclaredModels(config(models={"m": entry, "*": model()}))
    call = a_call(b'{"model":"m","input":[1,2],"user":"u"}', EMBEDDINGS)
    with pytest.raises(InvalidRequest, match="token_ids: false"):
        normalize(call, TARGET, declared.rules("embeddings", "m"))
    assert normalize(call, TARGET, declared.rules("embeddings", "other")) is call
    assert [rule.name for rule in declared.rules("embeddings", "m")] == ["texts", "rules"]
    chat = a_call(b'{"model":"m","input":[1,2]}')
    assert normalize(chat, TARGET, declared.rules("chat", "m")) is chat


def test_thousands_of_model_names_need_bounded_memory():
    declared = DeclaredModels(config(models={"*": model(rules={"drop": ["user"]})}))
    expected, held_bytes = declared.rules("chat", "*"), []
    tracemalloc.start()
    try:
        for number in range(4 * CACHED_MODELS):
            assert declared.rules("chat", f"m{number:05}") == expected
            held_bytes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held_bytes[-1] < 2 * held_bytes[CACHED_MODELS]


def entries(declared: DeclaredModels, operation: str, name: str) -> list[str]:
    rules = [rule for rule in declared.rules(operation, name) if isinstance(rule, ChangeRule)]
    return [change.entry for rule in rules for change in rule.changes]


def test_an_operations_rules_are_for_all_its_models_and_are_not_those_of_another_operation():
    found = DeclaredModels(
        config(
            models={
                "own": {"upstream": "chat"},
                "g*": {"upstream": "chat", "rules": {"set": {"user": "g"}}},
                "*": {"upstream": "chat", "rules": {"drop": ["seed"]}},
            },
            operations={
                "rerank": {"upstream": "chat", "rules": {"drop": ["user"]}},
                "embeddings": {"rules": {"drop": ["user"], "split": 10}},
            },
        )
    )
    assert entries(found, "rerank", "own") == ["drop=user"]
    assert entries(found, "rerank", "gpt") == ["set=user"]
    assert entries(found, "rerank", "x") == ["drop=user"]
    assert entries(found, "embeddings", "x") == ["drop=user", "drop=seed", "split=10"]
    assert entries(found, "chat", "own") == []
    assert entries(found, "chat", "x") == ["drop=seed"]
    assert found.model("rerank", "x") is None
    assert [found.entry("rerank", name) for name in ("own", "gpt", "x")] == ["own", "g*", None]
