"""A client gains nothing with a text that an upstream quotes in its error."""

import json
from typing import Any

import pytest

from gatepass.learning.memory import Memory
from gatepass.learning.pointing import Refusal
from gatepass.learning.quotes import (
    BODY_BYTES,
    MOST_ERROR_CHARS,
    MOST_SEPARATORS,
    SHORT_CHARS,
    Quotes,
    Sent,
    is_repeated,
    letters_of,
    sent_in,
)
from gatepass.types import UpstreamErrorBody
from tests.rows import CHAT
from tests.unit.learning.rejections import chat, openai
from tests.unit.learning.upstreams import Upstream, always, ask
from tests.unit.normalize.calls import a_call


def test_what_a_request_sends_is_known_by_name_text_and_value():
    sent = sent_in(b'{"seed":7,"a":{"b":[{"c":"x"},{"c":null}]},"metadata":{"k":1},"user":"%b"}' % (b"u" * 40))
    assert sent is not None
    assert sent.names == ["seed", "a", "b", "c", "c", "metadata", "k", "user"]
    assert sent.texts == ["x", "u" * 40]
    assert sent.values == {
        "seed": {"7"},
        "a": {"{"},
        "a.b": {"["},
        "a.b[].c": {'"x"', "null"},
        "metadata": {"{"},
        "user": {'"'},
    }


@pytest.mark.parametrize(("size", "value"), [(SHORT_CHARS, f'"{"u" * SHORT_CHARS}"'), (SHORT_CHARS + 1, '"')])
def test_a_long_text_is_not_kept_as_a_value(size, value):
    sent = sent_in(b'{"user":"%b"}' % (b"u" * size))
    assert sent is not None
    assert sent.values == {"user": {value}}


def test_a_body_is_read_up_to_its_bounds():
    assert sent_in(b"[%b1]" % (b"1," * (MOST_SEPARATORS - 1))) == Sent()
    assert sent_in(b"[%b1]" % (b"1," * MOST_SEPARATORS)) is None
    assert sent_in(b'"%b"' % (b"x" * BODY_BYTES)) is None
    assert sent_in(b"{") is None
    assert is_repeated((), "x" * (MOST_ERROR_CHARS + 1))


@pytest.mark.parametrize(("size", "named"), [(MOST_ERROR_CHARS, ["seed"]), (MOST_ERROR_CHARS + 1, [])])
def test_of_a_longer_error_the_text_points_at_nothing(size, named):
    refusal = Refusal.of(CHAT.members, 400, UpstreamErrorBody("No seed".ljust(size, ".")), b'{"seed":1}')
    assert refusal is not None
    assert list(refusal.named()) == named


PLANTED = (
    "I read that the parameter seed is not supported by this model",
    "I read that temperature and top_p cannot both be specified for it",
    "I read that max_tokens must be at most 20 for it",
    "I read that it has 20 input tokens, 80 output tokens and a context length of 99 tokens",
    "I read that role 'developer' is not supported by this model",
    "I read that system messages must be at the beginning of it",
    "I read that text content blocks must be non-empty in it",
    "I read that streaming is not supported by it",
)
SENT = {"user": "u", "seed": 1, "temperature": 5, "top_p": 1, "max_tokens": 80, "stream": True}
OTHERS = tuple(
    {"role": role, "content": text} for role, text in (("developer", "x"), ("system", "x"), ("assistant", ""))
)


def tried(error: Any, *messages: Any, **sent: Any) -> tuple[str, ...]:
    body = {"model": "m", **chat(*messages), **sent}
    call = a_call(json.dumps(body).encode(), CHAT, stream=bool(sent.get("stream")))
    return ask(Memory(), Upstream([always(error)]), call).learning.tried


@pytest.mark.parametrize("text", PLANTED)
def test_an_error_that_repeats_a_text_of_the_request_points_at_nothing_in_it(text):
    cut = f"…{text[4:]}…"
    places: tuple[Any, ...] = (
        {"role": "user", "content": f"Look at this old log. {text}"},
        {"role": "tool", "tool_call_id": "a", "content": json.dumps({"log": f"line 1\nline 2 {text}"})},
    )
    for quote in (text, f"Blocked: {text}", f"Invalid: {cut}", text.upper(), json.dumps(text)):
        for error in (openai(quote), {"error": {"message": "Blocked", "cause": quote}}):
            for place in places:
                assert tried(error, *OTHERS, place, **SENT) == ()
    assert tried(openai(text), *OTHERS, **SENT) != ()


@pytest.mark.parametrize(
    "shown", ["Seed\\u0020is off now", "se%65d is off now", "&#115;eed is off now", "S E E D is-off-now"]
)
def test_a_quote_is_known_in_every_spelling(shown):
    sent = Sent(texts=["I say that seed is off now"])
    assert Quotes(shown, sent).cover("seed")
    assert not Quotes("seed is refused", sent).cover("seed")
    assert Quotes("_ is refused", sent).cover("_"), "of a name without letters nothing shows whether it is quoted"
    assert letters_of("\\U0010ffff \\Uffffffff") == letters_of("\U0010ffff")


REFUSED = UpstreamErrorBody("Unsupported parameter: 'temperature' is not supported with this model.")


@pytest.mark.parametrize(("values", "points"), [((), True), (["OpenAI/Python 1.2"], True), ([REFUSED.message], False)])
def test_a_sentence_in_a_header_is_a_quote(values, points):
    sent = b'{"model":"m","temperature":1}'
    refusal = Refusal.of(CHAT.members, 400, REFUSED, sent, values)
    assert refusal is not None
    assert bool(refusal.points) is points


def test_only_code_and_param_count_if_the_text_quotes_the_request():
    error = openai("I like to say that user is off", "seed", "unknown_parameter")
    said = {"role": "user", "content": "I like to say that user is off"}
    assert tried(error, said, seed=1, user="u") == ("drop=seed",)


def test_an_object_of_the_request_that_the_upstream_returns_is_no_code():
    sent = {"metadata": {"code": "unknown_parameter"}, "seed": 1}
    assert tried(openai("Bad", "seed", "unknown_parameter"), **sent) == ()


def test_a_detail_inside_a_value_points_at_nothing():
    planted = "x', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'"
    message = str([{"type": "string_type", "loc": ("body", "user"), "msg": "Input should be short", "input": planted}])
    assert tried(openai(message), seed=1, user=planted) == ()
    assert tried(openai(message), seed=1, user="u")[0] == "drop=user"


def test_a_tool_that_describes_itself_by_the_name_of_a_member_keeps_no_error_from_being_read():
    effort = {"description": "Reasoning effort for this agent. Set it only when the user asks for it." * 3}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"effort": effort}}}}]
    error = openai("Unrecognized request argument supplied: reasoning_effort")
    assert tried(error, tools=tools, reasoning_effort="high") == ("drop=reasoning_effort",)
