"""What a refusal points at, and which refusals point at nothing."""

import json
import time
from typing import Any

import pytest

from gatepass.learning.pointing import MOST_POINTS, Refusal, is_too_long, no_room, plain, refuses_member
from gatepass.replies.error_body import read_error_body
from gatepass.types import UpstreamErrorBody
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.learning.rejections import FILTERED, openai
from tests.unit.learning.upstreams import always, refused

SENT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi", "name": "n"}],
    "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
    "temperature": 1,
    "top_p": 1,
    "reasoning_effort": "low",
    "metadata": {"a7": 1},
    "user": "u",
}


def reading(error: Any, status: int = 400, **sent: Any) -> Refusal:
    error_body = read_error_body(openai(error) if isinstance(error, str) else error, refused=True)
    refusal = Refusal.of(CHAT.members, status, error_body, json.dumps({"model": "m", **(sent or SENT)}).encode())
    assert refusal is not None
    return refusal


@pytest.mark.parametrize(
    "param", ["messages.[0].role", "body.messages.2.role", "/messages/*/role", "$.messages[0].role"]
)
def test_a_path_points_in_every_spelling(param):
    for error in (openai("no", param), openai(f"No {param} here.")):
        assert list(reading(error).named()) == ["messages[].role"]


@pytest.mark.parametrize(
    ("error", "is_exact"),
    [
        (openai("no", "seed"), True),
        (openai("No messages[0].role here"), True),
        (openai("No tools[2] here"), True),
        (openai("No /messages/0/role here"), True),
        (openai("No seed here"), False),
    ],
)
def test_a_param_a_path_or_an_index_is_exact(error, is_exact):
    assert reading(error, **SENT, seed=1).is_exact is is_exact


@pytest.mark.parametrize(
    ("text", "strong", "weak"),
    [
        ("reasoningEffort, Top P and TEMPERATURE", ["reasoning_effort", "top_p", "temperature"], []),
        ("the user is not allowed", [], ["user"]),
        ("parameter user is not allowed", ["user"], []),
        ("'user' is not allowed", ["user"], []),
        ("Unknown x. Supported parameters: temperature", [], ["temperature"]),
        ("metadata.a7 is odd", ["metadata"], []),
        ("tools[0].strict is odd", ["tools[].function.strict"], []),
        ("temperatures, top_p_min", [], []),
        ("no 'temperature is off today, my friend' here", [], []),
        ("unknown tool 'temperature'", [], []),
    ],
)
def test_a_name_points_as_a_whole_word_and_an_everyday_word_weakly(text, strong, weak):
    refusal = reading(text)
    assert list(refusal.named()) == strong
    assert [path for path in refusal.named(weak=True) if path not in strong] == weak


@pytest.mark.parametrize(
    ("error", "is_of_name"),
    [
        (openai("No.", "seed", "unknown_parameter"), True),
        (openai("No.", "seed", "unsupported_value"), False),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "No"}]}, True),
        *(
            (openai(text), True)
            for text in (
                'json: unknown field "seed"',
                "seed: Extra inputs are not permitted",
                "Additional properties are not allowed ('seed' was unexpected)",
                "got an unexpected keyword argument 'seed'",
                "property 'seed' is unsupported",
                "Malformed input request: extraneous key [seed] is not permitted",
            )
        ),
        (openai("'seed' is not supported with this model."), False),
    ],
)
def test_a_code_or_a_parsers_sentence_says_that_a_name_is_unknown(error, is_of_name):
    assert ("seed" in reading(error, seed=1).unknown) is is_of_name


@pytest.mark.parametrize(
    ("member", "value", "text"),
    [
        ("reasoning_effort", "low", "Your credit balance is too low to access the API."),
        ("reasoning_effort", "high", "This model is in high demand."),
        ("reasoning_effort", "medium", "A medium plan does not include this model."),
        ("service_tier", "auto", "Enable auto top-up to go on."),
        ("service_tier", "default", "The default group has no channel."),
        ("thinking", "on", "Nothing is served on Sundays."),
        ("think", "off", "The service is switched off."),
        ("keep_alive", "none", "There are none left."),
        ("truncation", "auto", "An auto-scaler is at work."),
        ("include_reasoning", "all", "It is all over."),
        ("safety_identifier", "user", "Ask the user to sign in."),
        ("user", "caller-mx41", "Ask caller-mx42 to sign in."),
    ],
)
def test_an_everyday_word_is_no_value_that_was_sent(member, value, text):
    assert member not in reading(text, **{member: value}).named(weak=True)


@pytest.mark.parametrize(
    ("member", "value", "text"),
    [
        ("reasoning_effort", "low", "'low' is not available."),
        ("reasoning_effort", "high", "No high effort here."),
        ("service_tier", "auto", "tier auto is not sold"),
        ("service_tier", "default", "Wrong: `default`"),
        ("reasoning_effort", "xhigh", "No xhigh here."),
        ("user", "caller-mx41", "Unknown: caller-mx41"),
        ("service_tier", "tier_2b", "There is no tier_2b."),
        ("prompt_cache_retention", "24h-x", "The retention is not sold."),
        ("verbosity", "v2", "What is v2?"),
    ],
)
def test_a_value_in_quotes_beside_its_name_or_of_a_rare_word_points_at_its_member(member, value, text):
    assert member in reading(text, **{member: value}).named(weak=True)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("temperature must be 1", ["1"]),
        ("temperature: only 'auto' or true", ['"auto"', "true"]),
        ("temperature and 'top_p' 2026", []),
        ("temperature must be １", []),
        ("temperature must be none", ['"none"']),
        ("temperature is odd, and none of these", []),
    ],
)
def test_the_values_behind_a_name_are_known(text, values):
    refusal = reading(text)
    assert refusal.values_behind(refusal.points[0]) == values


def test_ids_times_and_counts_do_not_make_another_error():
    one, same, other, member = map(
        reading,
        (
            "No temperature, request 0a1b at 12:03",
            "No temperature, request 9z8y at 13:44",
            "No temperature now, request 0a1b at 12:03",
            "No top_p, request 0a1b at 12:03",
        ),
    )
    assert (one.is_same(same), one.signature == same.signature) == (True, True)
    for different in (other, member):
        assert (one.is_same(different), one.signature == different.signature) == (False, False)


def test_a_500_points_only_if_a_template_failed():
    error, body = UpstreamErrorBody("Jinja Exception: System message must be first"), b"{}"
    assert Refusal.of(CHAT.members, 500, error, body) is not None
    assert Refusal.of(CHAT.members, 500, UpstreamErrorBody("Out of memory: temperature"), body) is None
    batch = UpstreamErrorBody("batch size 3 > maximum allowed batch size 2")
    assert Refusal.of(CHAT.members, 413, batch, body) is None
    assert Refusal.of(EMBEDDINGS.members, 413, batch, body) is not None


@pytest.mark.parametrize(
    "text",
    [
        "违规内容 temperature",
        "moderation: temperature",
        "the temperature violates our policy",
        "the safety of temperature",
    ],
)
def test_what_a_filter_refused_points_at_nothing(text):
    assert Refusal.of(CHAT.members, 400, UpstreamErrorBody(text), b'{"temperature":1}') is None


def test_a_filtered_prompt_is_not_too_long():
    assert not is_too_long(refused(always(openai(FILTERED, "prompt", "content_filter"))))
    assert is_too_long(refused(always(openai("No.", "messages", "context_length_exceeded"))))


def test_quoted_sentences_are_left_out_and_quoted_names_stay():
    assert plain("No 'this does not stream' in 'seed' or `a=1`") == "No … in 'seed' or `a=1`"


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("230,462 + 32,000 > 262,144", (230462, 32000, 262144)),
        ("max_tokens is too large: 32000 (32000 > 262144 - 230462)", (230462, 32000, 262144)),
        ("262144 < 230462 + 32000", (230462, 32000, 262144)),
        (
            "The context length is 6048 tokens. You requested 568 in the messages, 6048 in the completion",
            (568, 6048, 6048),
        ),
        ("Context limit 6048: 568 tokens from your prompt, 6048 tokens for the completion", (568, 6048, 6048)),
        ("Context limit 6048: 568 prompt tokens, 6048 new tokens", (568, 6048, 6048)),
        ("prompt is too long: 209375 tokens > 200000 maximum", None),
        ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.", None),
    ],
)
def test_a_prompt_that_fits_without_its_answer(text, room):
    assert no_room(text) == room


@pytest.mark.parametrize(
    "unit",
    ["a.", "messages.1.", "x: ", "property '", "body -> a -> ", "参数", "'a' ", "a:b", "a's ", 'Unknown name "'],
)
def test_long_texts_are_read_in_linear_time(unit):
    """Eight times the text takes about eight times the CPU time: quadratic work would take 64 times as long."""

    def cpu_s(size: int) -> float:
        text = (unit * size)[:size]
        error = UpstreamErrorBody(f"{text}\n{text * 2}", param=text[:100], raw={"metadata": {"raw": text * 2}})
        began_s = time.thread_time()
        assert Refusal.of(CHAT.members, 400, error, b'{"a":1,"messages":[],"x":"y"}') is not None
        return time.thread_time() - began_s

    assert cpu_s(20_000) < 24 * cpu_s(2_500)


@pytest.mark.parametrize(("steps", "named"), [(1, ["a.seed"]), (2000, [])])
def test_issues_with_a_long_path_point_at_nothing(steps, named):
    issue = {"code": "unrecognized_keys", "path": ["a"] * steps, "keys": ["seed"] * 9}
    assert list(reading({"error": [issue]}, a={"seed": 1}).named()) == named


def test_of_a_body_with_many_members_the_first_ones_are_compared():
    body = json.dumps({f"name_{at}": 1 for at in range(20_000)}).encode()
    assert refuses_member(UpstreamErrorBody(f"Unknown name_{MOST_POINTS - 1}"), body)
    assert not refuses_member(UpstreamErrorBody(f"Unknown name_{MOST_POINTS}"), body)


@pytest.mark.parametrize(
    ("text", "param", "refuses"),
    [
        ("This is not allowed.", "messages.0.content", True),
        ("This did not work.", "messages.0.content", False),
        ("This is not allowed.", "seed", False),
        ("The `top_p` broke. Unknown cause.", "top_p", False),
        ("Unknown field. See top_p.", None, False),
    ],
)
def test_a_member_of_the_request_is_refused_by_words_beside_its_name(text, param, refuses):
    assert refuses_member(UpstreamErrorBody(text, param=param), b'{"top_p":1}') is refuses
