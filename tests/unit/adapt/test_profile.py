"""What a client's profile changes of its requests."""

import json

import pytest

from gatepass.adapt.chain import adapt
from gatepass.adapt.profile import PlainTools, changes_of, rules_of
from gatepass.config.profiles import BUILT_IN, PLAIN, Profile
from tests.unit.adapt.calls import EMBEDDINGS, TARGET, a_call

ROUND = {
    "model": "m",
    "messages": [
        {"role": "assistant", "content": None, "tool_calls": [{"index": None, "id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ],
    "chat_template_kwargs": {"enable_thinking": False},
    "enable_thinking": False,
}


def sent(said, profile: Profile, dialect="openai"):
    call = adapt(a_call(json.dumps(said).encode()), TARGET, rules_of(profile, dialect))
    return json.loads(call.body), call.adapted


def test_a_plain_profile_has_no_rule():
    assert rules_of(PLAIN, "azure") == ()
    assert list(changes_of(BUILT_IN["opencode"], "openai")) == []


def test_ragflows_tool_calls_lose_their_index_and_nothing_else():
    body, adapted = sent(ROUND, BUILT_IN["ragflow"])
    expected = json.loads(json.dumps(ROUND))
    del expected["messages"][0]["tool_calls"][0]["index"]
    assert body == expected
    assert adapted == ("drop=messages[].tool_calls[].index",)


def test_what_vllm_wants_is_kept_from_azure_alone():
    body, adapted = sent({**ROUND, "messages": []}, BUILT_IN["ragflow"], "azure")
    assert body == {"model": "m", "messages": []}
    assert adapted == ("drop=chat_template_kwargs", "drop=enable_thinking")


def test_librechats_null_goes_and_its_true_stays():
    tools = [{"type": "function", "strict": None, "function": {"name": "f", "strict": True}}]
    body, _ = sent({"tools": tools}, BUILT_IN["librechat"])
    assert body == {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}
    body, _ = sent({"tools": [{"type": "function", "function": {"name": "f", "strict": None}}]}, BUILT_IN["librechat"])
    assert body == {"tools": [{"type": "function", "function": {"name": "f"}}]}


def test_cherry_studios_tools_keep_what_the_api_knows():
    tools = [{"name": "f", "id": "x", "type": "function", "function": {"name": "f", "parameters": {}}}]
    body, adapted = sent({"tools": tools}, BUILT_IN["cherry_studio"])
    assert body == {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    assert adapted == ("tools=plain",)


@pytest.mark.parametrize(
    "said",
    [
        {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
        {"tools": [{"type": "web_search"}, {"type": "function", "function": {"name": "f"}}, 1]},
        {"tools": None},
        {},
    ],
)
def test_tools_of_another_form_stay_by_the_byte(said):
    call = a_call(json.dumps(said).encode())
    assert adapt(call, TARGET, rules_of(BUILT_IN["cherry_studio"], "openai")) is call


def test_a_clean_request_is_the_same_object_under_every_profile():
    call = a_call(b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"x":1}')
    vectors = a_call(b'{"model":"e","input":["a"],"encoding_format":"float"}', EMBEDDINGS)
    for profile in BUILT_IN.values():
        for dialect in ("openai", "azure", "ragflow"):
            assert adapt(call, TARGET, rules_of(profile, dialect)) is call
            assert adapt(vectors, TARGET, rules_of(profile, dialect)) is vectors


def test_a_model_listed_with_its_type_is_asked_for_without_it():
    body, adapted = sent({"model": "text-3___embedding"}, BUILT_IN["ragflow"])
    assert body == {"model": "text-3"}
    assert adapted == ("model=untyped",)


def test_the_changes_come_in_a_fixed_order():
    profile = Profile(typed_ids=True, drop=["a"], drop_for={"azure": ["b"]}, drop_null=["c"], plain_tools=True)
    entries = [change.entry for change in changes_of(profile, "azure")]
    assert entries == ["model=untyped", "drop=a", "drop=b", "drop=c", PlainTools().entry]
