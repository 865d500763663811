"""Refused values of `anthropic-beta` and refused members of the Messages API, in the words of each upstream."""

import json
from collections.abc import Callable, Collection
from typing import Any

import pytest

from gatepass.learning.memory import Memory
from gatepass.normalize.betas import betas_of
from gatepass.types import Call
from tests.rows import MESSAGES
from tests.unit.learning.upstreams import Outcome, Refusal, ask

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


def a_call(betas: Collection[str] = SENT, body: Any = None) -> Call:
    fields = ((b"anthropic-version", b"1"), (b"anthropic-beta", ",".join(betas).encode()))
    return Call("id", MESSAGES, "caller", "m", json.dumps(BODY if body is None else body).encode(), fields)


class Picky:
    """Refuses each call, except those that it `accepts`."""

    def __init__(self, document: Any, accepts: Callable[[Call], bool], status: int = 400) -> None:
        self.refusal, self.accepts = Refusal(lambda _: True, document, status), accepts

    def answer(self, call: Call) -> Refusal | None:
        return None if self.accepts(call) else self.refusal


def ending(document: Any, call: Call, accepts: Callable[[Call], bool] = lambda _: False, status: int = 400) -> Outcome:
    return ask(Memory(), Picky(document, accepts, status), call)


def lacking(*names: str) -> Callable[[Call], bool]:
    return lambda call: set(names).isdisjoint(betas_of(call.headers))


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
    outcome = ending(document, a_call(), lacking(SCOPE))
    assert (betas_of(outcome.call.headers), outcome.call.adapted) == (without(SCOPE), (f"drop_beta={SCOPE}",))
    assert outcome.calls == 2
    assert json.loads(outcome.call.body) == json.loads(json.dumps(BODY).replace(', "scope": "global"', ""))


def test_an_account_without_the_long_context():
    document = anthropic("The long context beta is not yet available for this subscription.")
    outcome = ending(document, a_call(), lacking(LONG))
    assert (betas_of(outcome.call.headers), outcome.calls) == (without(LONG), 2)


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
    outcome = ending(document, a_call(), lacking(CONTEXT))
    assert (betas_of(outcome.call.headers), outcome.calls) == ((CODE, THINKING), 2)
    assert outcome.call.adapted == (f"drop_beta={'+'.join(without(CODE, THINKING))}",)
    assert b"context_management" not in outcome.call.body
    assert b"defer_loading" not in outcome.call.body
    outcome = ending(document, a_call(), lacking(*SENT))
    assert (betas_of(outcome.call.headers), outcome.calls) == ((), 3)
    assert ending(document, a_call((CONTEXT,)), lacking(CONTEXT)).call.adapted == (f"drop_beta={CONTEXT}",)


def test_a_refusal_of_a_set_does_not_concern_a_part_of_it():
    memory, upstream = Memory(), Picky(anthropic(UNNAMED), lambda call: len(betas_of(call.headers)) <= 2)
    assert ask(memory, upstream, a_call()).error is None
    other = a_call((CODE, CONTEXT))
    assert ask(memory, upstream, other).call is other


def test_an_error_that_names_all_values_may_quote_the_header():
    memory, document = Memory(), anthropic(f"Unexpected value(s) zzz, {CONTEXT} for the `anthropic-beta` header.")
    upstream = Picky(document, lacking("zzz"))
    assert ask(memory, upstream, a_call(("zzz", CONTEXT))).call.adapted == (f"drop_beta=zzz+{CONTEXT}",)
    assert ask(memory, upstream, a_call()).call.headers == a_call().headers


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
    outcome = ending(document, a_call(), lambda call: b"context_management" not in call.body)
    assert (betas_of(outcome.call.headers), outcome.calls) == (without(CONTEXT), 2)
    kept = {name: value for name, value in BODY.items() if name != "context_management"}
    assert json.loads(outcome.call.body) == kept
    assert set(outcome.call.adapted) == {"drop=context_management", f"drop_beta={CONTEXT}"}


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
    call = a_call()
    outcome = ending(anthropic(f"{place}: Extra inputs are not permitted"), call, lambda one: one.body != call.body)
    assert (betas_of(outcome.call.headers), outcome.calls) == (betas, 2)


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
@pytest.mark.parametrize("sentence", ["{}: Extra inputs are not permitted", "No '{}' here."])
def test_a_member_without_the_value_that_enables_it_teaches_nothing_about_requests_with_it(place, betas, sentence):
    memory, call = Memory(), a_call(betas, {**BODY, "speed": "fast"})
    other = a_call((*SENT, "fast-mode-2026-02-01"), {**BODY, "speed": "fast"})
    upstream = Picky(
        anthropic(sentence.format(place)), lambda one: one.body != call.body or one.headers != call.headers
    )
    assert ask(memory, upstream, call).calls == 2
    assert ask(memory, upstream, other).call is other


def nothing_helps(document: Any, call: Call, status: int = 400) -> bool:
    return ending(document, call, status=status).calls == 1


def test_the_form_of_the_answer_is_kept():
    form = {"type": "json_schema"}
    call = a_call(body={**BODY, "output_config": {"effort": "high", "format": form}})
    assert nothing_helps(anthropic("output_config: Extra inputs are not permitted"), call)
    call = a_call(("structured-outputs-2025-11-13",), {**BODY, "output_format": form})
    assert nothing_helps(anthropic("output_format: Extra inputs are not permitted"), call)
    assert nothing_helps({"error": {"message": "No 'max_tokens'", "param": "max_tokens"}}, a_call())


OTHER = {
    "an overflow": (anthropic("prompt is too long: 209375 tokens > 200000 maximum"), 400),
    "a rate limit": (anthropic(NAMED, "rate_limit_error"), 429),
    "a permission": (anthropic(NAMED, "permission_error"), 400),
    "another header": (anthropic("anthropic-version: header is required"), 400),
    "a quoted flag": (anthropic(f"messages: '{UNNAMED}' is odd"), 400),
    "a member that was not sent": (anthropic("speed: Extra inputs are not permitted"), 400),
}


@pytest.mark.parametrize(("document", "status"), OTHER.values(), ids=OTHER)
def test_nothing_is_tried_after_another_error(document, status):
    assert nothing_helps(document, a_call(), status)


@pytest.mark.parametrize("text", [NAMED, UNNAMED, TWO])
def test_a_client_cannot_plant_a_rule_with_a_text_that_the_upstream_quotes(text):
    assert nothing_helps(anthropic(text), a_call(body={**BODY, "messages": [{"role": "user", "content": text}]}))
    document = anthropic(f"Unexpected value(s) `x`, `{CODE}` for the `anthropic-beta` header.")
    assert nothing_helps(document, a_call((f"x`, `{CODE}", CODE)))
