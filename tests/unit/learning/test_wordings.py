"""Every wording by every member, run to the end: the member is left out, or the error advises the rule by name."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gatepass.learning.learned_rule import LearningPolicy
from gatepass.learning.memory import Memory
from gatepass.learning.rows import LearningSettings, advice
from gatepass.types import Call
from tests.rows import CHAT, MESSAGES
from tests.unit.learning.upstreams import Body, Outcome, Refusal, Upstream, ask, found
from tests.unit.learning.wordings import OTHER_WORDINGS, WORDINGS, filled
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
    **{name: name for name in ("temperature", "seed", "parallel_tool_calls", "reasoning_effort", "stream_options")},
    "cache_control": "system.0.cache_control",
}
ASKED = "Which seed grows at the temperature of the sea in winter, and which in the dark of a cellar?"


def a_request(member: str, **more: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": ASKED}]}
    if member == "cache_control":
        return a_call(json.dumps({**body, "max_tokens": 9, "system": CACHED}).encode(), MESSAGES)
    return a_call(json.dumps({**body, **(more or RAG)}).encode(), CHAT, stream="stream" in (more or RAG))


def outcome(error: Any, call: Call, refuses: Callable[[Body], bool] = lambda body: True) -> Outcome:
    return ask(Memory(), Upstream([Refusal(refuses, error)]), call)


def refusing(member: str) -> Callable[[Body], bool]:
    return lambda body: any(member in place for place in (body, *body.get("system", ())))


def advised(error: Any, call: Call) -> tuple[int, str]:
    """Return the calls that `error` costs if nothing helps, and the advice in it."""
    ended = outcome(error, call)
    (last, refusal), *_ = reversed(ended.learning._read.items())
    assert refusal is not None
    steps = found(ended.learning, last)
    return ended.calls, advice(refusal, ended.call, LearningSettings("u", LearningPolicy()), steps)


@pytest.mark.parametrize("member", PLACES)
@pytest.mark.parametrize("wording", [*WORDINGS, *OTHER_WORDINGS], ids=range(len(WORDINGS) + len(OTHER_WORDINGS)))
def test_a_member_is_left_out_in_whatever_words_it_is_refused(wording, member):
    ended = outcome(filled(wording, member, PLACES[member]), a_request(member), refusing(member))
    place = PLACES[member].replace(".0", "[]")
    assert (ended.error, ended.call.adapted, ended.calls) == (None, (f"drop={place}",), 2)


@pytest.mark.parametrize("member", ["tools", "tool_choice"])
@pytest.mark.parametrize("wording", WORDINGS, ids=range(len(WORDINGS)))
def test_no_wording_takes_an_agents_tools_or_advises_it(wording, member):
    assert advised(filled(wording, member, member), a_request(member)) == (1, "")


MEANT: dict[str, Any] = {
    **{name: {"guided_json": {}} for name in ("guided_json", "structured_outputs", "extra_body", "hotel_rules")},
    **dict.fromkeys(("grammar", "guided_regex", "ebnf", "chat_template", "tenant", "inference_geo"), "x"),
    **{name: ["x"] for name in ("bad_words", "kb_ids", "vector_store_ids", "attachments", "choices", "stop_token_ids")},
    **dict.fromkeys(("redact_pii", "safe_prompt", "enable_search", "zeroPrivacyLogs"), True),
    "stop": ["x"],
    "n": 3,
    "suffix": "x",
}


@pytest.mark.parametrize("wording", ["{m}: Extra inputs are not permitted", "'{m}' is not supported"])
@pytest.mark.parametrize("member", MEANT)
def test_a_member_that_may_carry_meaning_is_advised_by_name(member, wording):
    error, call = {"error": {"message": filled(wording, member, member)}}, a_request("", **{member: MEANT[member]})
    calls, text = advised(error, call)
    assert calls == 1
    assert f'rules: {{drop: ["{member}"]}}' in text


@pytest.mark.parametrize("value", [3, -0.5, True, False])
def test_an_unknown_member_with_a_number_or_a_flag_is_left_out_of_requests_with_this_value(value):
    memory, no_warp = Memory(), {"error": {"message": "warp_factor: Extra inputs are not permitted"}}
    upstream = Upstream([Refusal(lambda body: body.get("warp_factor") == value, no_warp)])
    assert ask(memory, upstream, a_request("", warp_factor=value)).call.adapted == ("drop=warp_factor",)
    other = a_request("", warp_factor={"json": {}})
    assert ask(memory, upstream, other).call is other


@pytest.mark.parametrize(
    "text", ["tool seed is not supported", "unknown function 'seed'", "role 'seed' is not supported"]
)
def test_the_name_of_a_tool_or_a_role_is_no_member(text):
    assert "drop=seed" not in outcome({"error": {"message": text}}, a_request("seed")).learning.tried


@pytest.mark.parametrize(
    "text",
    [
        "パラメータ '{m}' はサポートされていません。",
        "매개변수 '{m}'은(는) 지원되지 않습니다.",
        "Le paramètre « {m} » n'est pas pris en charge par ce modèle.",
        "Параметр '{m}' не поддерживается этой моделью.",
    ],
)
def test_another_language_is_as_good_by_name_or_by_param(text):
    words = filled(text, "seed", "seed")
    for error in (
        {"message": words},
        {"message": "…", "param": "seed", "code": "unknown_parameter"},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": words}]},
    ):
        assert outcome({"error": error}, a_request("seed"), refusing("seed")).calls == 2
    assert outcome({"error": {"message": words, "param": "seed"}}, a_request("cache_control")).calls == 1
