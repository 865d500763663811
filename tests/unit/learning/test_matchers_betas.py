"""Refused values of `anthropic-beta` and refused members of the Messages API, in the words of each upstream."""

import json
from typing import Any

import pytest

from gatepass.learning.learned_rule import LearnedRule
from gatepass.normalize.betas import betas_of
from gatepass.normalize.rules import apply_changes
from gatepass.types import Call
from tests.rows import MESSAGES
from tests.unit.learning.rejections import rules

CODE, THINKING = "claude-code-20250219", "interleaved-thinking-2025-05-14"
CONTEXT, SCOPE, EFFORT = "context-management-2025-06-27", "prompt-caching-scope-2026-01-05", "effort-2025-11-24"
LONG, TOOLS = "context-1m-2025-08-07", "advanced-tool-use-2025-11-20"
SENT = (CODE, LONG, THINKING, CONTEXT, SCOPE, EFFORT, TOOLS)
CACHED = {"type": "ephemeral", "scope": "global"}
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 64,
    "system": [{"type": "text", "text": "s", "cache_control": CACHED}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "t", "cache_control": CACHED}]}],
    "tools": [{"name": "t", "input_schema": {}, "defer_loading": True}],
    "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
    "output_config": {"effort": "high"},
    "thinking": {"type": "adaptive"},
    "metadata": {"user_id": "u"},
}
HINT = "Please consult our documentation at docs.anthropic.com or try again without the header."
NAMED = f"Unexpected value(s) `{SCOPE}` for the `anthropic-beta` header. {HINT}"
TWO = f"Unexpected value(s) `{SCOPE}`, `{CONTEXT}` for the `anthropic-beta` header. {HINT}"
UNNAMED = "invalid beta flag"
GROUP = " Received Model Group=claude\nAvailable Model Group Fallbacks=None"
QUOTED = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": NAMED}})
EXTRA = "context_management: Extra inputs are not permitted"


def anthropic(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011"}


def litellm(text: str) -> dict[str, Any]:
    return {"error": {"message": text, "type": "None", "param": "None", "code": "400"}}


def detail(*members: str) -> list[dict[str, Any]]:
    return [
        {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": {"a": 1}}
        for name in members
    ]


def a_call(betas: tuple[str, ...] = SENT, body: Any = None) -> Call:
    fields = ((b"anthropic-version", b"1"), (b"anthropic-beta", ",".join(betas).encode()))
    return Call("id", MESSAGES, "caller", "m", json.dumps(BODY if body is None else body).encode(), fields)


def changed(document: Any, call: Call, **more: Any) -> tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]:
    result = apply_changes(call, [rule.change() for rule in rules(document, call, **more)])[0]
    return betas_of(result.headers), json.loads(result.body), result.adapted


def without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in SENT if name not in names)


ONE = {
    "Anthropic and Vertex AI": anthropic(NAMED),
    "Anthropic's documentation": anthropic(f"Unsupported beta header: {SCOPE}"),
    "Azure Foundry": {**anthropic(NAMED), "request_id": None},
    "Copilot": {"error": {"message": f"unsupported beta header(s): {SCOPE}", "code": "invalid_request_body"}},
    "LiteLLM over Vertex AI": litellm(f"{QUOTED}.{GROUP}"),
    "new-api": {
        "error": {"type": "<nil>", "message": NAMED.replace("docs.anthropic.com", "\n     ***.***.com") + " (id: 1)"},
        "type": "error",
    },
}


@pytest.mark.parametrize("document", ONE.values(), ids=ONE)
def test_a_named_value_goes_with_its_members(document):
    betas, body, adapted = changed(document, a_call())
    assert (betas, adapted) == (without(SCOPE), (f"drop_beta={SCOPE}",))
    plain = {"type": "ephemeral"}
    assert body == {
        **BODY,
        "system": [{**BODY["system"][0], "cache_control": plain}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "t", "cache_control": plain}]}],
    }


def test_an_account_without_the_long_context():
    document = anthropic("The long context beta is not yet available for this subscription.")
    assert changed(document, a_call())[0] == without(LONG)


BEDROCK = {
    "in Anthropic's form": anthropic(UNNAMED),
    "alone": {"message": UNNAMED},
    "LiteLLM": litellm('{"message":"invalid beta flag"}. ' + GROUP),
    "the SDK for Go": {
        "error": {
            "message": "InvokeModel: operation error Bedrock Runtime: InvokeModel, https response error"
            " StatusCode: 400, RequestID: 5e0e8a5c-1a2b, ValidationException: invalid beta flag",
            "type": "new_api_error",
        }
    },
}


@pytest.mark.parametrize("document", BEDROCK.values(), ids=BEDROCK)
def test_of_several_values_without_a_name_the_most_used_stay_first_and_then_none(document):
    first = rules(document, a_call())
    assert [rule.entry for rule in first] == [f"drop_beta={'+'.join(without(CODE, THINKING))}"]
    betas, body, _ = changed(document, a_call())
    assert betas == (CODE, THINKING)
    assert "context_management" not in body
    assert "defer_loading" not in body["tools"][0]
    betas, _, adapted = changed(document, a_call(betas))
    assert (betas, adapted) == ((), (f"drop_beta={CODE}+{THINKING}",))
    assert rules(document, a_call(betas)) == ()
    assert rules(document, a_call((CONTEXT,))) == (LearnedRule("beta", CONTEXT),), "a single one is the rejected one"


def test_a_rejection_of_a_set_does_not_concern_a_part_of_it():
    (rule,) = rules(anthropic(UNNAMED), a_call())
    other = a_call((CODE, CONTEXT))
    assert apply_changes(other, [rule.change()])[0] is other


def test_an_error_that_names_all_values_may_quote_the_header():
    document = anthropic(f"Unexpected value(s) zzz, {CONTEXT} for the `anthropic-beta` header.")
    (rule,) = rules(document, a_call(("zzz", CONTEXT)))
    assert rule.entry == f"drop_beta=zzz+{CONTEXT}"
    assert apply_changes(a_call(), [rule.change()])[0].headers == a_call().headers
    many = tuple(f"value-{number}" for number in range(9))
    document = anthropic(f"Unexpected value(s) {', '.join(many)} for the `anthropic-beta` header.")
    assert [rule.entry for rule in rules(document, a_call(many))] == [f"drop_beta={'+'.join(many)}"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_no_member_gets_a_name_of_another_api(name):
    call = a_call(body={**BODY, name: 5})
    document = {"error": {"message": f"Unsupported parameter: '{name}'", "param": name}}
    assert rules(document, call) == ()


MEMBER = {
    "Anthropic, Bedrock and Vertex AI": anthropic(EXTRA),
    "alone": {"message": EXTRA},
    "LiteLLM": litellm(
        '{"message":"context_management: Extra inputs are not permitted"}No fallback model group.' + GROUP
    ),
    "llama.cpp": {"error": {"code": 400, "message": "Unsupported parameter: 'context_management'", "type": "x"}},
}


@pytest.mark.parametrize("document", MEMBER.values(), ids=MEMBER)
def test_a_refused_member_goes_with_the_value_that_enables_it(document):
    betas, body, adapted = changed(document, a_call())
    assert betas == without(CONTEXT)
    assert body == {name: value for name, value in BODY.items() if name != "context_management"}
    assert set(adapted) == {"drop=context_management", f"drop_beta={CONTEXT}"}


@pytest.mark.parametrize(
    ("place", "betas"),
    [
        ("system.0.cache_control.ephemeral.scope", without(SCOPE)),
        ("messages.0.content.0.text.cache_control.ephemeral.scope", without(SCOPE)),
        ("tools.0.custom.defer_loading", without(TOOLS)),
        ("output_config.effort", without(EFFORT)),
        ("output_config", SENT),
    ],
)
def test_a_member_inside_another_is_found_behind_the_names_of_unions(place, betas):
    found, body, _ = changed(anthropic(f"{place}: Extra inputs are not permitted"), a_call())
    assert found == betas
    assert body != BODY


@pytest.mark.parametrize(
    ("place", "betas"),
    [
        ("context_management", ()),
        ("speed", SENT),
        ("output_config.effort", without(EFFORT)),
        ("tools.0.custom.defer_loading", without(TOOLS)),
        ("system.0.cache_control.ephemeral.scope", without(SCOPE)),
    ],
)
@pytest.mark.parametrize(
    "sentence", ["{}: Extra inputs are not permitted", "Unsupported value: '{}' does not support "]
)
def test_a_member_without_the_value_that_enables_it_teaches_nothing_about_requests_with_it(place, betas, sentence):
    call, other = a_call(betas, {**BODY, "speed": "fast"}), a_call((*SENT, "fast-mode-2026-02-01"), BODY)
    found = [rule.change() for rule in rules(anthropic(sentence.format(place)), call)]
    assert apply_changes(call, found)[0].body != call.body
    assert apply_changes(other, found)[0] is other


def test_the_form_of_the_answer_is_kept():
    call = a_call(body={**BODY, "output_config": {"effort": "high", "format": {"type": "json_schema"}}})
    assert rules(anthropic("output_config: Extra inputs are not permitted"), call) == ()
    call = a_call(("structured-outputs-2025-11-13",), {**BODY, "output_format": {"type": "json_schema"}})
    document = anthropic("output_format: Extra inputs are not permitted")
    assert rules(document, call) == ()


OTHER = {
    "an overflow": (anthropic("prompt is too long: 209375 tokens > 200000 maximum"), 400),
    "a rate limit": (anthropic(NAMED, "rate_limit_error"), 429),
    "a permission": (anthropic(NAMED, "permission_error"), 400),
    "another header": (anthropic("anthropic-version: header is required"), 400),
    "a quotation": (anthropic(f"messages.0.role: Input should be 'user', not '{NAMED}'"), 400),
    "a quoted flag": (anthropic(f"messages: '{UNNAMED}' is odd"), 400),
    "a value that was not sent": (anthropic("Unsupported beta header: compact-2026-01-12"), 400),
    "a member that was not sent": (anthropic("speed: Extra inputs are not permitted"), 400),
}


@pytest.mark.parametrize("case", OTHER.values(), ids=OTHER)
def test_nothing_is_learned_from_another_error(case):
    document, status = case
    assert rules(document, a_call(), status) == ()


@pytest.mark.parametrize("text", [NAMED, UNNAMED, TWO])
def test_a_client_cannot_plant_a_rule_with_a_text_that_the_upstream_quotes(text):
    body = {**BODY, "messages": [{"role": "user", "content": text}]}
    assert rules(anthropic(text), a_call(body=body)) == ()
    document = anthropic(f"Unexpected value(s) `x`, `{CODE}` for the `anthropic-beta` header.")
    assert rules(document, a_call((f"x`, `{CODE}", CODE))) == ()
