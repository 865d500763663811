"""The changes of requests by a client's profile."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.config.access import BUILT_IN_PROFILES, Profile
from gatepass.config.routes import ModelKind, guessed
from gatepass.normalize.profiles import NAME, changes_of, typed, untyped
from gatepass.normalize.rules import ChangeRule, normalize
from tests.rows import EMBEDDINGS
from tests.unit.normalize.calls import TARGET, a_call


def rules_of(profile, dialect):
    return ChangeRule.of(NAME, changes_of(profile, dialect))


ROUND = {
    "model": "m",
    "messages": [
        {"role": "assistant", "content": None, "tool_calls": [{"index": None, "id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ],
    "chat_template_kwargs": {"enable_thinking": False},
    "enable_thinking": False,
}


def sent(document, profile: Profile, dialect="openai"):
    call = normalize(a_call(json.dumps(document).encode()), TARGET, rules_of(profile, dialect))
    return json.loads(call.body), call.adapted


def test_ragflows_tool_calls_lose_their_index_and_nothing_else():
    body, adapted = sent(ROUND, BUILT_IN_PROFILES["ragflow"])
    expected = json.loads(json.dumps(ROUND))
    del expected["messages"][0]["tool_calls"][0]["index"]
    assert body == expected
    assert adapted == ("drop=messages[].tool_calls[].index",)


def test_members_for_vllm_are_dropped_for_azure_only():
    body, adapted = sent({**ROUND, "messages": []}, BUILT_IN_PROFILES["ragflow"], "azure")
    assert body == {"model": "m", "messages": []}
    assert adapted == ("drop=chat_template_kwargs", "drop=enable_thinking")


def test_librechats_null_is_dropped_and_true_kept():
    tools = [{"type": "function", "strict": None, "function": {"name": "f", "strict": True}}]
    body, _ = sent({"tools": tools}, BUILT_IN_PROFILES["librechat"])
    assert body == {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}
    body, _ = sent(
        {"tools": [{"type": "function", "function": {"name": "f", "strict": None}}]}, BUILT_IN_PROFILES["librechat"]
    )
    assert body == {"tools": [{"type": "function", "function": {"name": "f"}}]}


def test_cherry_studios_tools_keep_what_the_api_knows():
    tools = [{"name": "f", "id": "x", "type": "function", "function": {"name": "f", "parameters": {}}}]
    body, adapted = sent({"tools": tools}, BUILT_IN_PROFILES["cherry_studio"])
    assert body == {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    assert adapted == ("tools=plain",)


def test_a_clean_request_is_the_same_object_under_every_profile():
    call = a_call(b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"x":1}')
    vectors = a_call(b'{"model":"e","input":["a"],"encoding_format":"float"}', EMBEDDINGS)
    for profile in BUILT_IN_PROFILES.values():
        for dialect in ("openai", "azure", "ragflow"):
            assert normalize(call, TARGET, rules_of(profile, dialect)) is call
            assert normalize(vectors, TARGET, rules_of(profile, dialect)) is vectors


def test_typed_model_name_is_sent_without_its_type():
    for model in ("text-3___embedding", "text-3@gatepass", "text-3___embedding@gatepass"):
        body, adapted = sent({"model": model}, BUILT_IN_PROFILES["ragflow"])
        assert body == {"model": "text-3"}
        assert adapted == ("model=untyped",)
    assert untyped("text-3@corp") == "text-3@corp"


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("bge-reranker-v2-m3", "rerank"),
        ("text-embedding-3-small", "embedding"),
        ("BGE-m3", "embedding"),
        ("whisper-1", "asr"),
        ("gpt-4o-transcribe", "asr"),
        ("gpt-4o-mini-tts", "tts"),
        ("gpt-4o-240806", "vision"),
        ("Qwen2.5-VL-7B", "vision"),
        ("o3-mini", "chat"),
    ],
)
def test_a_name_is_read_as_ragflow_reads_it(model, kind):
    assert guessed(model) == kind
    assert typed(model, kind) == model


@pytest.mark.parametrize(
    ("model", "kind", "listed"),
    [
        ("corp-vectors", "embedding", "corp-vectors___embedding"),
        ("corp-order", "rerank", "corp-order___rerank"),
        ("corp-eyes", "vision", "corp-eyes___vision"),
        ("corp-ears", "asr", "corp-ears___whisper"),
        ("corp-voice", "tts", "corp-voice___tts"),
        ("gpt-4o", "chat", "gpt-4o"),
        ("embedded-eyes", "vision", "embedded-eyes"),
    ],
)
def test_a_name_without_a_hint_gets_a_suffix_if_that_helps(model, kind, listed):
    assert typed(model, kind) == listed


@given(st.text(min_size=1, max_size=20), st.sampled_from(get_args(ModelKind)))
def test_untyped_reverses_typed(model, kind):
    assert untyped(typed(model, kind)) == untyped(model)
