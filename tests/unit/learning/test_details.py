"""Pydantic's errors: what each of their forms since 1.10 points at, and that their keywords point at nothing.

`seed` is not known, and the validator of the whole request refuses `top_k`.
"""

import json
from typing import Any

import pytest

from gatepass.learning.pointing import Refusal
from gatepass.learning.rows import steps
from gatepass.replies.error_body import read_error_body
from tests.rows import CHAT, MESSAGES
from tests.unit.learning.rejections import openai
from tests.unit.normalize.calls import a_call

KEYWORDS = ("type", "loc", "msg", "input", "ctx", "url")
CACHED = {"type": "ephemeral"}
SENT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": CACHED}]}],
    "seed": 1,
    "top_k": 3,
    "model_type": "base",
    "thinking": {"type": "enabled"},
}
LINK = "https://errors.pydantic.dev/2.14/v"
ROOT = "top_k must be even"
OLD = [
    {"loc": ["body", "seed"], "msg": "extra fields not permitted", "type": "value_error.extra"},
    {"loc": ["body", "__root__"], "msg": ROOT, "type": "value_error", "ctx": {"limit": [1]}},
]
NEW: list[dict[str, Any]] = [
    {
        "type": "extra_forbidden",
        "loc": ["body", "seed"],
        "msg": "Extra inputs are not permitted",
        "input": {"input": [1, "model_type"]},
        "url": f"{LINK}/extra_forbidden",
    },
    {
        "type": "value_error",
        "loc": ["body"],
        "msg": f'Value error, {ROOT}, or "no"',
        "input": {"model_type": "it's", "thought": {"type": "enabled"}},
        "ctx": {"error": "model_type"},
        "url": f"{LINK}/model_type",
    },
]


def in_python(*details: Any, place: Any = tuple) -> str:
    shown = [{name: place(one) if name == "loc" else one for name, one in detail.items()} for detail in details]
    return str(shown).replace("'error': 'model_type'", "'error': ValueError('model_type')")


def dotted(loc: list[str]) -> str:
    return ".".join(loc)


def each(*details: Any, place: Any = tuple, end: str = "") -> str:
    lines = (f"  {in_python(detail, place=place)[1:-1]}{end}" for detail in details)
    return "2 validation errors:\n" + "\n".join(lines)


CUT = each(*NEW, place=dotted).replace(
    "'ctx': {'error': ValueError('model_type')}", "'ctx': {'error': Valu...[truncated]"
)
FORMS: dict[str, Any] = {
    "FastAPI and pydantic 1": {"detail": OLD},
    "FastAPI": {"detail": NEW},
    "below another error": {"error": {"code": "invalid", "message": "Validation failed", "details": NEW}},
    "FastAPI, loc as a text": {"detail": [{**one, "loc": dotted(one["loc"])} for one in NEW]},
    "pydantic 1": openai(
        "2 validation errors for Thinking\nbody -> seed\n  extra fields not permitted (type=value_error.extra)\n"
        f"__root__\n  {ROOT} (type=value_error; model_type=base)"
    ),
    "pydantic 1, repr": openai(f"ValidationError(model='Thinking', errors={in_python(*OLD)})"),
    "pydantic 1, errors()": openai(in_python(*OLD)),
    "pydantic 1, json()": openai(json.dumps(OLD, indent=2)),
    "pydantic": openai(
        "2 validation errors for function-wrap[Thinking, model_type]\nseed\n  Extra inputs are not permitted"
        f" [type=extra_forbidden, input_value={{'model_type': 1}}, input_type=dict]\n    For further information visit"
        f" {LINK}/extra_forbidden\n  Value error, {ROOT} [type=value_error, input_value={{'model_type': 'b...1}},"
        f" input_type=dict]\n    For further information visit {LINK}/model_type"
    ),
    "pydantic, a union": openai(
        f"2 validation errors for Thinking\nseed.list[union[Thinking,str]]\n  Extra inputs are not permitted"
        f" [type=extra_forbidden, input_value=1, input_type=int]\n  Value error, {ROOT} [type=value_error,"
        " input_value={'model_type': 1}, input_type=dict]"
    ),
    "pydantic, errors()": openai(in_python(*NEW)),
    "pydantic, json()": openai(json.dumps(NEW)),
    "pydantic, json() behind words": openai(f"Invalid request: {json.dumps(NEW)}"),
    "pydantic, json() with blanks": openai(f"Invalid request: {json.dumps(NEW, indent=4)}"),
    "FastAPI's text": openai(
        f'{each(*NEW)}\n\n  File "/app/thinking.py", line 3, in model_type\n    POST /v1/messages'
    ),
    "FastAPI's text without a file": openai(f"{each(*NEW)}\n  Endpoint: POST /v1/thinking"),
    "vLLM 0.10": openai(in_python(*NEW), code=400),
    "vLLM 0.32": openai(each(*NEW, place=dotted), "body.seed", code=400),
    "vLLM 0.32, many": openai(f"{each(*NEW, place=dotted)}\n  ...and 9 more errors", "body.seed", code=400),
    "vLLM 0.32, cut": openai(CUT, "body.seed", code=400),
    "lists": openai(in_python(*NEW, place=list)),
    "one line": openai(" ".join(each(*NEW).split())),
    "LiteLLM": openai(f"litellm.BadRequestError: OpenAIException - {in_python(*NEW)}. Received Model Group=m"),
    "in another error": openai(str({"error": {"message": in_python(*NEW), "type": "invalid", "param": None}})),
    "in another error, escaped": openai(str({"error": {"message": f'{in_python(*NEW)} "it\'s"', "type": "x"}})),
    "as JSON in a text": openai(f"Error code: 400 - {json.dumps({'detail': NEW})}"),
}


def read(error: Any, body: dict[str, Any], operation: Any = CHAT) -> Refusal:
    refusal = Refusal.of(operation.members, 400, read_error_body(error, refused=True), json.dumps(body).encode())
    assert refusal is not None
    return refusal


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_validators_error_points_at_its_members_alone(form: str):
    assert set(read(FORMS[form], SENT).named(weak=True)) == {"seed", "top_k"}


@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_keyword_of_a_detail_is_no_name(form: str, keyword: str):
    sent = {name: value for name, value in SENT.items() if name != "model_type"} | {keyword: 1}
    assert set(read(FORMS[form], sent).named(weak=True)) == {"seed", "top_k"}


CLAUDE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 1024,
    "thinking": {"type": "enabled", "budget_tokens": 4096},
    "system": [{"type": "text", "text": "You are brief.", "cache_control": CACHED}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello", "cache_control": CACHED}]}],
    "tools": [{"name": "get", "input_schema": {"type": "object"}, "cache_control": CACHED}],
    "top_k": 5,
    "min_tokens": 9999,
}


def vllm(kind: str, loc: str, msg: str) -> Any:
    """What vLLM 0.32 sends."""
    ctx = {"error": ValueError(msg)}
    detail = {"type": kind, "loc": loc, "msg": msg, "input": "<dict of 9 items>", "ctx": ctx}
    return openai(f"1 validation error:\n  {detail}", loc, code=400)


@pytest.mark.parametrize(
    "error",
    [
        openai("min_tokens must be less than or equal to max_tokens=1024, got 9999."),
        vllm("value_error", "body.tool_choice", "Value error, tool_choice.name is required when type is 'tool'"),
        vllm("literal_error", "body.system.0.type", "Input should be 'text', 'image', 'thinking' or 'tool_use'"),
        openai("When response_format type is 'json_schema', the field must be provided", "response_format"),
        openai("Every item of the list must have a 'type'."),
    ],
)
def test_a_fault_of_the_client_teaches_nothing(error: Any):
    call = a_call(json.dumps(CLAUDE).encode(), MESSAGES)
    assert steps(read(error, CLAUDE, MESSAGES), call) == []


@pytest.mark.parametrize(
    "error",
    [
        vllm("value_error", "body", "Value error, thinking.budget_tokens must be less than max_tokens"),
        vllm("value_error", "body.thinking", "Value error, thinking.budget_tokens must be less than max_tokens"),
        openai("`max_tokens` must be greater than `thinking.budget_tokens`. Please consult the documentation"),
        openai("max_tokens (1024) must be larger than thinking.budget_tokens (4096)"),
        openai("thinking.budget_tokens 必须小于 max_tokens"),
        openai("budget_tokens > max_tokens"),
    ],
)
def test_a_budget_above_the_limit_leaves_out_the_thoughts_of_this_request_alone(error: Any):
    call = a_call(json.dumps(CLAUDE).encode(), MESSAGES)
    found = steps(read(error, CLAUDE, MESSAGES), call)
    assert [[(rule.entry, rule.is_once) for rule in step] for step in found] == [[("drop=thinking", True)]]


def test_an_unknown_value_of_a_type_concerns_its_own_object_alone():
    tags = "Input tag 'on' found using 'type' does not match any of the expected tags: 'enabled', 'disabled'"
    found = read(vllm("union_tag_invalid", "body.thinking", tags), CLAUDE, MESSAGES)
    call = a_call(json.dumps(CLAUDE).encode(), MESSAGES)
    assert [[rule.entry for rule in step] for step in steps(found, call)] == [["drop=thinking"]]
