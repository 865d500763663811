"""Every wording by every member: it is learned, or the error advises the rule by name."""

import json
from typing import Any

import pytest

from gatepass.dialects.error_body import read_error_body
from gatepass.learning.learned_rule import LearningPolicy
from gatepass.learning.matchers import LearningSettings, advice, next_rules, relevant_rules
from gatepass.learning.rejection import UpstreamRejection
from gatepass.normalize.rules import apply_changes
from gatepass.types import Call
from tests.rows import CHAT, MESSAGES
from tests.unit.learning.wordings import WORDINGS, filled
from tests.unit.normalize.calls import a_call

CACHED = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
RAG: dict[str, Any] = {
    "temperature": 0.1,
    "top_p": 0.3,
    "seed": 7,
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {"properties": {"seed": {}}}}}],
    "tool_choice": "required",
}
PLACES = {
    "temperature": "temperature",
    "seed": "seed",
    "parallel_tool_calls": "parallel_tool_calls",
    "reasoning_effort": "reasoning_effort",
    "cache_control": "system.0.cache_control",
    "stream_options": "stream_options",
}


def a_request(member: str) -> Call:
    messages = [
        {
            "role": "user",
            "content": "Which seed grows at the temperature of the sea in winter, and which in the dark of a cellar?",
        }
    ]
    if member == "cache_control":
        body = {"model": "m", "max_tokens": 9, "system": CACHED, "messages": messages}
        return Call("id", MESSAGES, "caller", "m", json.dumps(body).encode(), ())
    return a_call(json.dumps({"model": "m", "messages": messages, **RAG}).encode(), CHAT, stream=True)


def outcome(error: Any, call: Call) -> tuple[tuple[str, ...], str]:
    """Return what is learned from `error`, and the advice in the client's error."""
    error_body = read_error_body(error, refused=True)
    rejection = UpstreamRejection.of(call.operation.members, 400, error_body, call.body)
    assert rejection is not None
    relevant, policy = relevant_rules(rejection, call), LearningPolicy()
    found = next_rules(rejection, relevant, policy, lambda rule: False)
    changed = apply_changes(call, [rule.change() for rule in found])[0]
    return changed.adapted, advice(rejection, call, LearningSettings("u", policy), relevant)


@pytest.mark.parametrize("member", PLACES)
@pytest.mark.parametrize("wording", WORDINGS, ids=range(len(WORDINGS)))
def test_a_member_is_left_out_in_whatever_words_it_is_refused(wording: Any, member: str) -> None:
    place = PLACES[member].replace(".0", "[]")
    assert outcome(filled(wording, member, PLACES[member]), a_request(member)) == ((f"drop={place}",), "")


@pytest.mark.parametrize("member", ["tools", "tool_choice"])
@pytest.mark.parametrize("wording", WORDINGS, ids=range(len(WORDINGS)))
def test_a_member_that_carries_meaning_is_advised_by_name(wording: Any, member: str) -> None:
    learned, advised = outcome(filled(wording, member, member), a_request(member))
    assert learned == ()
    assert f'set rules: {{drop: ["{member}"]}} in the model\'s entry' in advised


MEANT: dict[str, Any] = {
    **{name: {"guided_json": {}} for name in ("guided_json", "structured_outputs", "extra_body", "hotel_rules")},
    **dict.fromkeys(("grammar", "guided_regex", "ebnf", "chat_template", "tenant", "inference_geo"), "x"),
    **{name: ["x"] for name in ("bad_words", "kb_ids", "vector_store_ids", "attachments", "choices", "stop_token_ids")},
    **dict.fromkeys(("redact_pii", "safe_prompt", "content_filter", "enable_search", "zeroPrivacyLogs"), True),
}


@pytest.mark.parametrize("wording", ["{}: Extra inputs are not permitted", "'{}' is not supported"])
@pytest.mark.parametrize("member", MEANT)
def test_an_unknown_member_that_may_carry_meaning_is_advised_by_name(member: str, wording: str) -> None:
    body = {"model": "m", "messages": [], member: MEANT[member]}
    learned, advised = outcome({"error": {"message": wording.format(member)}}, a_call(json.dumps(body).encode(), CHAT))
    assert learned == ()
    assert f'rules: {{drop: ["{member}"]}}' in advised


@pytest.mark.parametrize("value", [3, -0.5, True, False])
def test_an_unknown_member_with_a_number_or_a_flag_is_left_out_of_requests_with_this_value(value: Any) -> None:
    error = {"error": {"message": "warp_factor: Extra inputs are not permitted"}}
    first, other = (
        a_call(json.dumps({"model": "m", "messages": [], "warp_factor": one}).encode(), CHAT)
        for one in list[Any]((value, {"json": {}}))
    )
    assert outcome(error, first) == (("drop=warp_factor",), "")
    rejection = UpstreamRejection.of(CHAT.members, 400, read_error_body(error, refused=True), first.body)
    assert rejection is not None
    rules = next_rules(rejection, relevant_rules(rejection, first), LearningPolicy(), lambda rule: False)
    assert apply_changes(other, [rule.change() for rule in rules])[0].body == other.body


@pytest.mark.parametrize("member", PLACES)
@pytest.mark.parametrize(
    "text",
    [
        "This deployment ignores sampling controls; please omit {m}.",
        "{m} is meaningless for this model, remove it from your request",
        "{m}: property is outside the allowed set",
        "Object literal may only specify known properties, and {m} is none of them",
        "Extra inputs are not permitted: {m}",
        "该接口尚未支持 {m} 字段",
        "参数校验失败: {m} 不在允许的参数列表内",
    ],
)
def test_other_words_for_a_refusal(text: str, member: str) -> None:
    place = PLACES[member].replace(".0", "[]")
    error = {"error": {"message": text.replace("{m}", member)}}
    assert outcome(error, a_request(member)) == ((f"drop={place}",), "")


def test_a_literal_name_wins_over_a_translated_word() -> None:
    error = {"error": {"message": "流式选项 stream_options 暂未开放"}}
    assert outcome(error, a_request("stream_options")) == (("drop=stream_options",), "")


@pytest.mark.parametrize(
    "text", ["tool seed is not supported", "unknown function 'seed'", "role 'seed' is not supported"]
)
def test_the_name_of_a_tool_or_a_role_is_no_member(text: str) -> None:
    assert outcome({"error": {"message": text}}, a_request("seed")) == ((), "")


@pytest.mark.parametrize(("member", "value"), [("stop", ["x"]), ("n", 3)])
def test_an_everyday_word_that_is_refused_is_advised(member: str, value: Any) -> None:
    call = a_call(json.dumps({"model": "m", "messages": [], member: value}).encode(), CHAT)
    learned, advised = outcome({"error": {"message": f"{member} is not supported"}}, call)
    assert learned == ()
    assert f'rules: {{drop: ["{member}"]}}' in advised


@pytest.mark.parametrize(
    "text",
    [
        "パラメータ '{}' はサポートされていません。",
        "매개변수 '{}'은(는) 지원되지 않습니다.",
        "Der Parameter '{}' wird von diesem Modell nicht unterstützt.",
        "Le paramètre « {} » n'est pas pris en charge par ce modèle.",
        "El parámetro '{}' no es compatible con este modelo.",
        "Параметр '{}' не поддерживается этой моделью.",
    ],
)
def test_another_language_teaches_by_param_and_else_is_advised_by_name(text: str) -> None:
    words = text.format("seed")
    for error in (
        {"message": words, "param": "seed"},
        {"message": "…", "param": "seed", "code": "unknown_parameter"},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": words}]},
    ):
        assert outcome({"error": error}, a_request("seed")) == (("drop=seed",), "")
    learned, advised = outcome({"error": {"message": words}}, a_request("seed"))
    assert learned == ()
    assert 'rules: {drop: ["seed"]}' in advised
    assert outcome({"error": {"message": words, "param": "seed"}}, a_request("cache_control")) == ((), "")


def test_a_person_refuses_no_member() -> None:
    text = "User is not allowed to sample from this engine."
    assert outcome({"error": {"message": text}}, a_request("seed"))[0] == ()
