"""Answers that return in the next request: the chat gets each text, thought and call as it sent it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatepass.protocols.translation.chat_request import Dropped
from gatepass.protocols.translation.message_translation import MessageAnswer, chat_of_message
from gatepass.protocols.translation.response_translation import ResponseAnswer, chat_of_response
from tests.unit.protocols.json_texts import chat_of
from tests.unit.protocols.test_translated_answers import defaults

Body = dict[str, Any]
TEXTS = st.text(alphabet="aé🚀\n{}\"'\\ ", min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3)
NAMES = ("look", "x" * 100, "y" * 63)

MESSAGE_TOOLS = [{"name": name, "input_schema": {}} for name in NAMES]
RESPONSE_TOOLS = [
    *({"type": "function", "name": name, "parameters": {}} for name in NAMES),
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "maps", "tools": [{"type": "function", "name": "look", "parameters": {}}]},
]


@st.composite
def answers(draw: st.DrawFn, tools: dict[str, Any]) -> Body:
    """The message of a chat's answer."""
    calls = []
    for at, name in enumerate(draw(st.lists(st.sampled_from([*tools]), max_size=3))):
        made = {"input": draw(TEXTS)} if tools[name].is_custom else draw(ARGUMENTS)
        calls.append(
            {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(made)}}
        )
    content = draw(st.none() | TEXTS) if calls else draw(TEXTS)
    reasoning = draw(st.none() | TEXTS)
    message: Body = {"role": "assistant", "content": content}
    return message | ({"reasoning_content": reasoning} if reasoning else {}) | ({"tool_calls": calls} if calls else {})


def parsed(message: Body) -> Body:
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls}


def results_of(message: Body, result: str, name: str, **more: Any) -> list[Body]:
    return [{"type": result, name: call["id"], **more} for call in message.get("tool_calls", ())]


@given(st.data())
def test_an_answer_returns_to_the_chat_as_it_came_from_a_message(data):
    asked = {"model": "m", "tools": MESSAGE_TOOLS, "messages": [{"role": "user", "content": "Hi"}]}
    _, about = chat_of(chat_of_message, asked)
    sent = data.draw(answers(dict(about.tools)))
    completion = {"choices": [{"index": 0, "message": {**sent}, "finish_reason": "stop"}]}
    message = json.loads(MessageAnswer(defaults(), "up", about, keeps_texts=True).whole(completion))
    results = results_of(sent, "tool_result", "tool_use_id", content="x")
    turns = [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": results or "And?"}]
    dropped = Dropped()
    chat, _ = chat_of(chat_of_message, {**asked, "messages": [*asked["messages"], *turns]}, dropped)
    assert parsed(chat["messages"][1]) == parsed(sent)
    assert dropped.entries == ()


@given(st.data())
def test_an_answer_returns_to_the_chat_as_it_came_from_a_response(data):
    asked = {"model": "m", "tools": RESPONSE_TOOLS, "input": [{"role": "user", "content": "Hi"}]}
    _, about = chat_of(chat_of_response, asked)
    sent = data.draw(answers(dict(about.tools)))
    completion = {"choices": [{"index": 0, "message": {**sent}, "finish_reason": "stop"}]}
    response = json.loads(ResponseAnswer(defaults(), "up", about, keeps_texts=True).whole(completion))
    results = results_of(sent, "function_call_output", "call_id", output="x")
    dropped = Dropped()
    chat, _ = chat_of(chat_of_response, {**asked, "input": [*asked["input"], *response["output"], *results]}, dropped)
    assert parsed(chat["messages"][1]) == parsed(sent)
    assert dropped.entries == ()
