"""`rules.max_output_tokens`: no client asks for more by any of its names. In each protocol, after all other rules."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatepass.normalize.members import OutputBound
from gatepass.normalize.rules import apply_changes
from gatepass.proxy.admission import Size
from gatepass.server.inspection import stories
from tests.integration.answers import COMPLETION, VECTORS
from tests.integration.gateway import CHAT, HELLO, STREAMED, Gateway, gateway
from tests.integration.refusing import Refusal, Refusing
from tests.integration.scripted import Dialogue, Received, Scripted, Send, event, reply, stream
from tests.unit.normalize.calls import a_call

MOST = 2_000
BOUND = f"max_output_tokens={MOST}"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "m",
    "output": [],
    "usage": None,
}
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": "end_turn"}
COUNT = {"input_tokens": 5}


def answered(received: Received) -> Dialogue:
    path = received.target.partition("?")[0]
    if path.endswith("/embeddings"):
        return [Send(reply(VECTORS))]
    if path.endswith("/count_tokens"):
        return [Send(reply(COUNT))]
    if path.endswith("/messages"):
        if received.json().get("stream"):
            return [Send(stream(*named(*MESSAGE_EVENTS)))]
        return [Send(reply(MESSAGE))]
    if path.endswith("/responses"):
        if received.json().get("stream"):
            return [Send(stream(*named(*RESPONSE_EVENTS)))]
        return [Send(reply(RESPONSE))]
    return [Send(reply(COMPLETION))]


def named(*events: dict[str, Any]) -> list[bytes]:
    return [b"event: %b\n" % one["type"].encode() + event(one) for one in events]


MESSAGE_EVENTS: tuple[dict[str, Any], ...] = (
    {
        "type": "message_start",
        "message": {**MESSAGE, "stop_reason": None, "usage": {"input_tokens": 1, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
)
TEXT = {"type": "output_text", "text": "hi", "annotations": []}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [TEXT]}
RESPONSE_EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress"}},
    {"type": "response.output_item.done", "sequence_number": 1, "output_index": 0, "item": ITEM},
    {"type": "response.completed", "sequence_number": 2, "response": {**RESPONSE, "output": [ITEM]}},
)


@asynccontextmanager
async def bounded(answer: Any = answered, most: int = MOST, **entry: Any) -> AsyncIterator[tuple[Gateway, Scripted]]:
    rules = {**entry.pop("rules", {}), "max_output_tokens": most}
    async with (
        Scripted(answer=answer) as upstream,
        gateway(upstream=upstream.url, models={"*": {"upstream": "chat", "rules": rules, **entry}}) as gp,
    ):
        yield gp, upstream


FORMS: Mapping[str, str] = {
    "max_tokens": '"max_tokens": 2001',
    "max_completion_tokens": '"max_completion_tokens": 99999',
    "null": '"max_tokens": null',
    "-1": '"max_completion_tokens": -1',
    "0": '"max_tokens": 0',
    "a text": '"max_tokens": "99999"',
    "a truth value": '"max_tokens": true',
    "beyond a float": '"max_tokens": 1e999',
    "twice": '"max_tokens": 99999, "max_tokens": 5',
    "twice in another order": '"max_tokens": 5, "max_tokens": 99999',
    "both": '"max_tokens": 5, "max_completion_tokens": 99999',
    "of another protocol": '"max_output_tokens": 99999',
    "of llama.cpp": '"n_predict": -1, "max_tokens": 5',
    "another case": '"Max_Tokens": 99999, "maxTokens": 99999',
    "generationConfig": '"generationConfig": {"maxOutputTokens": 99999}',
    "extra_body": '"extra_body": {"max_tokens": 99999, "generation_config": {"max_new_tokens": null}}',
    "Ollama's options": '"options": {"num_predict": 99999, "num_ctx": 4096}',
    "OpenRouter's reasoning": '"reasoning": {"max_tokens": 99999, "exclude": true}',
    "reasoning in extra_body": '"extra_body": {"reasoning": {"maxTokens": null}, "options": {"num_predict": -1}}',
    "an object twice": '"extra_body": {"max_tokens": 99999}, "extra_body": {}',
    "provider_options": '"provider_options": {"x": {"max_tokens": "all"}}',
    "none": '"seed": 1',
}


def numbers(pairs: list[tuple[str, Any]]) -> Any:
    """Note every member that bounds an answer, also a repeated one."""
    for name, value in pairs:
        if name.lower().replace("_", "") in ("npredict", "numpredict") or "tokens" in name.lower():
            SEEN.append(value)
    return dict(pairs)


SEEN: list[Any] = []


@pytest.mark.parametrize("form", FORMS)
async def test_each_spelling_of_the_bound_is_bounded_and_the_name_of_a_chat_is_sent(form):
    async with bounded() as (gp, upstream):
        body = f'{{"model": "m", "messages": [{{"role": "user", "content": "hi"}}], {FORMS[form]}}}'.encode()
        answer = await gp.ask(body).answer()
        assert (answer.status, answer.headers["x-gatepass-adapted"]) == (200, BOUND)
        (story,) = await stories(gp.state, answer.headers["x-request-id"], bodies=False)
    assert BOUND in str(story)  # as `gatepass show` prints it
    SEEN.clear()
    sent = json.loads(upstream.received[0].body, object_pairs_hook=numbers)
    assert SEEN
    assert all(type(one) is int and 1 <= one <= MOST for one in SEEN), upstream.received[0].body
    assert {"max_tokens", "max_completion_tokens"} & sent.keys()


LARGE: Any = 99_999
PROMPTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "chat": (CHAT, HELLO),
    "completions": ("/v1/completions", {"model": "m", "prompt": "hi"}),
    "responses": (RESPONSES, {"model": "m", "input": "hi"}),
    "messages": (MESSAGES, HELLO),
}
SPELLED: Mapping[str, dict[str, Any]] = {
    "Llama": {"max_gen_len": LARGE},
    "Titan": {"maxTokenCount": LARGE, "textGenerationConfig": {"maxTokenCount": LARGE}},
    "transformers": {"max_length": LARGE, "MAX-LENGTH": LARGE},
    "TGI": {"parameters": {"max_new_tokens": LARGE, "details": True}},
    "Bedrock": {
        "inferenceConfig": {"maxTokens": LARGE, "topP": 0.5},
        "additionalModelRequestFields": {"max_gen_len": LARGE},
    },
    "SGLang": {"sampling_params": {"max_new_tokens": LARGE, "regex": "a"}},
    "NeMo": {"tokens_to_generate": LARGE},
    "Triton": {"request_output_len": LARGE},
    "koboldcpp": {"options": {"max_length": LARGE}, "max_length": -1},
    "PaddleNLP": {"max_dec_len": LARGE},
    "lm-eval": {"extra_body": {"generation_kwargs": {"max_gen_toks": LARGE}}},
    "an answer's": {"model_kwargs": {"maxResponseTokens": LARGE}, "MaxAnswerLen": [LARGE]},
    "a provider's": {"provider_options": {"x": {"params": {"max_out_len": LARGE}}}},
    # by the usual names, the bound holds wherever objects are passed on
    "a text": {"provider_options": {"text": {"max_tokens": LARGE}}},
    "a deep text": {"extra_body": {"extra_body": {"text": {"max_tokens": LARGE}}}},
    "an input": {"extra_body": {"input": {"max_tokens": LARGE}, "metadata": {"maxTokens": LARGE}}},
    "a tool's": {"extra_body": {"tool_config": {"max_tokens": LARGE}, "tools": {"n_predict": LARGE}}},
    "a like name": {
        "provider_options": {"functionary": {"max_tokens": LARGE}, "json_mode": {"max_len": LARGE}},
        "extra_body": {"information": {"max_gen_len": LARGE}, "contexts": {"max_tokens": LARGE}},
    },
    "a type": {"options": {"a": {"type": "string", "max_tokens": LARGE}}},
}
UNTOUCHED: Mapping[str, dict[str, Any]] = {
    "what is read": {
        "max_input_tokens": LARGE,
        "maxPromptTokens": LARGE,
        "max_context_length": LARGE,
        "max_seq_len": LARGE,
        "max_model_len": LARGE,
        "max_chunk_length": LARGE,
        "extra_body": {"truncate_max_input_len": LARGE},
    },
    "no unit": {"max_tool_calls": LARGE, "max_turns": LARGE, "max_time": LARGE, "token_ids": [LARGE], "length": LARGE},
    "tools": {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "parameters": {
                        "type": "object",
                        "properties": {"max_length": {"type": "string", "maxLength": LARGE}},
                    },
                },
            }
        ]
    },
    "formats": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"maxLength": LARGE}}},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {"maxLength": LARGE}}},
        "guided_json": {"type": "string", "maxLength": LARGE},
    },
    "formats in objects": {
        "extra_body": {
            "guided_json": {"type": "string", "maxLength": LARGE},
            "text": {"max_gen_len": LARGE},
            "metadata": {"max_length": LARGE, "a": {"max_len": LARGE}},
            "documents": {"a": {"max_length": LARGE}},
            "messages": {"max_length": LARGE},
            "input": {"max_length": LARGE},
            "tools": {"a": {"max_length": LARGE}},
            "schema": {"maxLength": LARGE},
        },
        "generationConfig": {"responseSchema": {"type": "STRING", "maxLength": LARGE}},
        "parameters": {"grammar": {"type": "json"}, "properties": {"max_length": {"maxLength": LARGE}}},
        "options": {"format": {"maxLength": LARGE}},
    },
    "schemas": {
        "parameters": {
            "grammar": {"type": "json", "value": {"type": "string", "maxLength": LARGE}},
            "a": {"type": "string", "maxLength": LARGE, "default": {"max_tokens": LARGE}},
        },
        "extra_body": {
            "structural_tag": {"type": "string", "maxLength": LARGE},
            "output": {"type": "string", "maxLength": LARGE},
            "a": {"anyOf": [{"maxLength": 3}], "maxLength": LARGE, "not": {"maxLength": LARGE}},
            "b": {"properties": {"max_tokens": {"type": "integer", "maximum": LARGE}}},
            "variables": {"max_length": LARGE},
            "inputs": {"max_length": LARGE},
            "chat_template_kwargs": {"max_length": LARGE},
        },
        "sampling_params": {"metadata": {"max_tokens": LARGE}, "json_schema": {"a": {"max_tokens": LARGE}}},
    },
    "the client's own": {
        "metadata": {"max_tokens": "99999", "max_length": "99999"},
        "documents": [{"max_length": LARGE}],
        "unknown": {"max_gen_len": LARGE},
    },
}
NAMED = {"max_tokens": 5, "max_output_tokens": 5}
"""The own names of the protocols, so that none is added."""


@pytest.mark.parametrize("protocol", PROMPTS)
@pytest.mark.parametrize("spelling", SPELLED)
async def test_each_name_with_a_unit_of_answers_is_bounded_where_servers_read_it(protocol, spelling):
    path, body = PROMPTS[protocol]
    async with bounded() as (gp, upstream):
        answer = await gp.ask({**body, **NAMED, **SPELLED[spelling]}, path).answer()
    assert answer.headers["x-gatepass-adapted"].split(", ")[0] == BOUND
    sent = json.dumps(upstream.received[0].json())
    expected = json.dumps({**body, **NAMED, **SPELLED[spelling]})
    assert sent == expected.replace("[99999]", "2000").replace("99999", "2000").replace("-1", "2000")


@pytest.mark.parametrize("protocol", PROMPTS)
@pytest.mark.parametrize("what", UNTOUCHED)
async def test_what_is_no_bound_of_an_answer_passes_unchanged(protocol, what):
    path, body = PROMPTS[protocol]
    async with bounded() as (gp, upstream):
        answer = await gp.ask({**body, **NAMED, **UNTOUCHED[what]}, path).answer()
    assert upstream.received[0].json() == {**body, **NAMED, **UNTOUCHED[what]}
    assert BOUND not in answer.headers.get("x-gatepass-adapted", "")


@pytest.mark.parametrize("body", [*SPELLED.values(), *UNTOUCHED.values()], ids=[*SPELLED, *UNTOUCHED])
def test_a_limit_of_tokens_reserves_what_the_rule_bounds(body):
    call = a_call(json.dumps({**HELLO, **body}).encode())
    _, changes = apply_changes(call, [OutputBound(MOST, {}, ("max_tokens", "max_completion_tokens"))])
    assert (Size.of(call).output_tokens > MOST) is bool(changes) is (body in SPELLED.values())


@pytest.mark.parametrize(
    ("path", "body", "changed"),
    [
        (CHAT, {**HELLO, "max_tokens": MOST}, None),
        (CHAT, {**HELLO, "max_completion_tokens": 1}, None),
        (CHAT, {**HELLO, "max_tokens": 5, "metadata": {"max_tokens": 99_999}}, None),
        (CHAT, HELLO, {"max_tokens": MOST}),
        (CHAT, STREAMED, {"max_tokens": MOST}),
        ("/v1/completions", {"model": "m", "prompt": "hi"}, {"max_tokens": MOST}),
        (RESPONSES, {"model": "m", "input": "hi"}, {"max_output_tokens": MOST}),
        (RESPONSES, {"model": "m", "input": "hi", "max_output_tokens": 99_999}, {"max_output_tokens": MOST}),
        (MESSAGES, {**HELLO, "max_tokens": 99_999}, {"max_tokens": MOST}),
        (
            "/v1/responses/compact",
            {"model": "m", "input": "hi", "max_output_tokens": 99_999},
            {"max_output_tokens": MOST},
        ),
        ("/v1/responses/compact", {"model": "m", "input": "hi"}, None),
        (
            MESSAGES,
            {**HELLO, "max_tokens": 5, "thinking": {"type": "enabled", "budgetTokens": 99_999}},
            {"thinking": {"type": "enabled", "budgetTokens": 1_024}},
        ),
        ("/v1/messages/count_tokens", HELLO, None),
        ("/v1/embeddings", {"model": "m", "input": "hi", "max_tokens": 99_999}, None),
    ],
)
async def test_each_protocol_has_its_own_name(path, body, changed):
    async with bounded() as (gp, upstream):
        answer = await gp.ask(body, path).answer()
    assert upstream.received[0].json() == {**body, **(changed or {})}
    assert (BOUND in answer.headers.get("x-gatepass-adapted", "")) is (changed is not None)


@pytest.mark.parametrize(
    ("rules", "sent"),
    [
        ({"rename": {"max_tokens": "max_completion_tokens"}}, {"max_completion_tokens": MOST}),
        ({"drop": ["max_tokens"]}, {"max_completion_tokens": MOST}),
        ({"drop": ["max_tokens", "max_completion_tokens"]}, {}),
        ({"set": {"max_tokens": 99_999}}, {"max_tokens": MOST}),
        ({"default": {"max_tokens": 700}}, {"max_tokens": 700}),
        ({"clamp": {"max_tokens": {"min": 3_000}}}, {"max_tokens": MOST}),
    ],
)
async def test_it_runs_after_the_other_rules(rules, sent):
    async with bounded(rules=rules) as (gp, upstream):
        await gp.ask().answer()
    assert upstream.received[0].json() == {**HELLO, **sent}


async def test_the_model_that_knows_another_name_gets_it_and_a_learned_rule_does_not_raise_it():
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    refusing = Refusing([Refusal(lambda body: "max_tokens" in body, text, "max_tokens", "unsupported_parameter")])
    async with bounded(refusing) as (gp, upstream):
        answers = [await gp.ask().answer() for _ in range(2)]
    assert [one.status for one in answers] == [200, 200]
    sent = [one.json() for one in upstream.received]
    assert sent == [{**HELLO, "max_tokens": MOST}, *[{**HELLO, "max_completion_tokens": MOST}] * 2]
    assert answers[1].headers["x-gatepass-adapted"] == f"{BOUND}, rename=max_tokens>max_completion_tokens"


CLAUDE_CODE = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 32_000,
    "stream": True,
    "system": [{"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "enabled", "budget_tokens": 31_999},
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "tools": [{"name": "Read", "input_schema": {"type": "object", "properties": {"limit": {"type": "number"}}}}],
    "metadata": {"user_id": "user_1_account__session_2"},
}
CODEX = {
    "model": "gpt-5-codex",
    "instructions": "You are Codex.",
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
    "tools": [
        {"type": "function", "name": "shell", "strict": False, "parameters": {"type": "object", "properties": {}}}
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199",
}


def anthropic(received: Received) -> Dialogue:
    """What Anthropic's API requires of a budget."""
    body = received.json()
    thinking = body.get("thinking") or {}
    budget, is_on = thinking.get("budget_tokens", 0), thinking.get("type") == "enabled"
    if is_on and not 1024 <= budget < body["max_tokens"]:
        return [Send(reply({"type": "error", "error": {"type": "invalid_request_error", "message": "budget"}}, 400))]
    return answered(received)


@pytest.mark.parametrize(
    ("most", "thinking"),
    [
        (40_000, CLAUDE_CODE["thinking"]),
        (31_999, {"type": "enabled", "budget_tokens": 15_999}),
        (1_025, {"type": "enabled", "budget_tokens": 1_024}),
        (1_024, {"type": "disabled"}),
        (16, {"type": "disabled"}),
    ],
)
async def test_claude_code_with_thoughts_runs_under_a_bound(most, thinking):
    async with bounded(anthropic, most) as (gp, upstream):
        answer = await gp.ask(CLAUDE_CODE, MESSAGES).answer()
    assert (answer.status, json.loads(answer.events[-1])) == (200, {"type": "message_stop"})
    bound = min(32_000, most)
    assert upstream.received[0].json() == {**CLAUDE_CODE, "max_tokens": bound, "thinking": thinking}
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("most", "thinking"),
    [
        (8_192, {"type": "enabled", "budget_tokens": 4_096}),
        (1_025, {"type": "enabled", "budget_tokens": 1_024}),
        (1_024, {"type": "disabled"}),
    ],
)
@pytest.mark.parametrize("is_learned", [True, False])
async def test_a_clamped_limit_leaves_room_for_thoughts_in_the_same_step(most, thinking, is_learned):
    text = f"max_tokens: 32000 > {most}, which is the maximum allowed number of output tokens for claude-3"

    def refusing(received: Received) -> Dialogue:
        if received.json()["max_tokens"] <= most:
            return anthropic(received)
        return [Send(reply({"type": "error", "error": {"type": "invalid_request_error", "message": text}}, 400))]

    rules = {} if is_learned else {"clamp": {"max_tokens": {"max": most}}}
    async with bounded(refusing, 99_999, rules=rules) as (gp, upstream):
        answers = [await gp.ask(CLAUDE_CODE, MESSAGES).answer() for _ in range(2)]
    assert [one.headers["x-gatepass-adapted"] for one in answers] == ["clamp=max_tokens"] * 2
    assert [one.json() for one in upstream.received[is_learned:]] == [
        {**CLAUDE_CODE, "max_tokens": most, "thinking": thinking}
    ] * 2


@pytest.mark.parametrize(
    "thinking", [{"type": "adaptive"}, {"type": "disabled"}, {"type": "enabled", "budget_tokens": 1_500}]
)
async def test_thinking_that_fits_is_relayed(thinking):
    async with bounded(anthropic) as (gp, upstream):
        await gp.ask({**CLAUDE_CODE, "max_tokens": MOST, "thinking": thinking}, MESSAGES).answer()
    assert upstream.received[0].json()["thinking"] == thinking


async def test_codex_runs_under_a_bound():
    async with bounded() as (gp, upstream):
        answer = await gp.ask(CODEX, RESPONSES).answer()
    assert (answer.status, json.loads(answer.events[-1])["type"]) == (200, "response.completed")
    assert upstream.received[0].json() == {**CODEX, "max_output_tokens": MOST}


@pytest.mark.parametrize(("body", "path"), [(CLAUDE_CODE, MESSAGES), (CODEX, RESPONSES)])
async def test_a_chat_that_serves_another_protocol_has_the_bound_of_a_chat(body, path):
    async with bounded(protocols=["chat"]) as (gp, upstream):
        answer = await gp.ask({**body, "stream": False}, path).answer()
    sent = upstream.received[0].json()
    assert (answer.status, sent["max_tokens"], "max_output_tokens" in sent) == (200, MOST, False)


async def test_a_model_replaces_the_bound_of_its_operation():
    operations = {"chat": {"upstream": "chat", "rules": {"max_output_tokens": 50}}}
    models = {"a": {"upstream": "chat"}, "b": {"upstream": "chat", "rules": {"max_output_tokens": 70}}}
    async with (
        Scripted(answer=answered) as upstream,
        gateway(upstream=upstream.url, operations=operations, models=models) as gp,
    ):
        for model in ("a", "b", "other"):
            await gp.ask({**HELLO, "model": model}).answer()
    assert [one.json()["max_tokens"] for one in upstream.received] == [50, 70, 50]
