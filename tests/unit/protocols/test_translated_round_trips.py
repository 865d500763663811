"""Requests and answers there and back: each text, image, thought, call and result is there, in order, or is noted."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.protocols.translation.chat_request import MOST_NAME_CHARS, About, Dropped
from gatepass.protocols.translation.message_translation import MessageAnswer, chat_of_message
from gatepass.protocols.translation.response_translation import ResponseAnswer, chat_of_response
from tests.unit.protocols.test_translated_answers import defaults

Body = dict[str, Any]
Fact = tuple[str, ...]
"""A text with its role, an image, a call with its id, name and arguments, a result with the id of its call."""
TEXTS = st.text(alphabet="aé🚀\n{}\"'\\ ", min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3)
IMAGES = st.sampled_from(("data:image/png;base64,AA", "data:image/png;base64,BB"))
LAST = "And?"
"""The end of each conversation, because a chat cannot continue an answer."""
NAMES = ("look", "x" * 100, "y" * 63)


class Result(NamedTuple):
    text: str
    image: str | None


class Exchange(NamedTuple):
    """What a user says, what the model answers, and the results of its calls in the order in which they arrive."""

    user: list[tuple[str, str]]
    texts: list[str]
    calls: list[tuple[str, Body, Result]]
    order: list[int]
    noise: bool
    """The user marks a text for a cache, and the answer has a block of a tool of the server."""


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    user = draw(
        st.lists(st.tuples(st.just("text"), TEXTS) | st.tuples(st.just("image"), IMAGES), min_size=1, max_size=3)
    )
    results = st.builds(Result, TEXTS, st.none() | IMAGES)
    calls = draw(st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS, results), max_size=3))
    texts = draw(st.lists(TEXTS, min_size=0 if calls else 1, max_size=2))
    return Exchange(user, texts, calls, draw(st.permutations(range(len(calls)))), draw(st.booleans()))


conversations = st.lists(exchanges(), min_size=1, max_size=3)


def call_id(turn: int, at: int) -> str:
    return f"call_{turn}_{at}"


def joined(facts: list[Fact]) -> list[Fact]:
    """Join texts of one role in a row, as the chat does."""
    found: list[Fact] = []
    for fact in facts:
        last = found[-1] if found else ("",)
        if fact[0] == "text" and last[:2] == fact[:2]:
            found[-1] = ("text", fact[1], f"{last[2]}\n\n{fact[2]}")
        else:
            found.append(fact)
    return found


def said(conversation: list[Exchange]) -> list[Fact]:
    facts: list[Fact] = []
    for turn, one in enumerate(conversation):
        facts += [("text", "user", value) if kind == "text" else ("image", value) for kind, value in one.user]
        facts += [("text", "assistant", text) for text in one.texts]
        numbered = list(enumerate(one.calls))
        facts += [
            ("call", call_id(turn, at), name, json.dumps(made, sort_keys=True)) for at, (name, made, _) in numbered
        ]
        facts += [("result", call_id(turn, at), result.text) for at, (_, _, result) in numbered]
        for at in one.order:
            if (image := one.calls[at][2].image) is not None:
                facts += [("text", "user", f"Images of {call_id(turn, at)}:"), ("image", image)]
    return joined([*facts, ("text", "user", LAST)])


def in_chat(chat: Body, about: About) -> list[Fact]:
    facts: list[Fact] = []
    for message in chat["messages"]:
        role, content = message["role"], message["content"]
        if role == "tool":
            facts.append(("result", message["tool_call_id"], content))
            continue
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []:
            is_text = part["type"] == "text"
            facts.append(("text", role, part["text"]) if is_text else ("image", part["image_url"]["url"]))
        for call in message.get("tool_calls", ()):
            made = json.dumps(json.loads(call["function"]["arguments"]), sort_keys=True)
            assert len(call["function"]["name"]) <= MOST_NAME_CHARS
            facts.append(("call", call["id"], about.tools[call["function"]["name"]].name, made))
    roles = [message["role"] for message in chat["messages"] if message["role"] != "tool"]
    assert all(one != after for one, after in pairwise(roles)), roles
    return joined(facts)


def as_message_request(conversation: list[Exchange]) -> Body:
    turns: list[Body] = []
    results: list[Body] = []
    for turn, one in enumerate(conversation):
        mark = {"cache_control": {"type": "ephemeral"}} if one.noise else {}
        parts = [
            {"type": "text", "text": value, **mark}
            if kind == "text"
            else {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": value[-2:]}}
            for kind, value in one.user
        ]
        noise = [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}] if one.noise else []
        answer = [*noise, *({"type": "text", "text": text} for text in one.texts)]
        answer += [
            {"type": "tool_use", "id": call_id(turn, at), "name": name, "input": made}
            for at, (name, made, _) in enumerate(one.calls)
        ]
        turns += [{"role": "user", "content": [*results, *parts]}, {"role": "assistant", "content": answer}]
        results = []
        for at in one.order:
            text, image = one.calls[at][2]
            content: list[Body] = [{"type": "text", "text": text}]
            if image is not None:
                source = {"type": "base64", "media_type": "image/png", "data": image[-2:]}
                content.append({"type": "image", "source": source})
            results.append({"type": "tool_result", "tool_use_id": call_id(turn, at), "content": content})
    turns.append({"role": "user", "content": [*results, {"type": "text", "text": LAST}]})
    return {"model": "m", "messages": turns, "tools": [{"name": name, "input_schema": {}} for name in NAMES]}


def as_response_request(conversation: list[Exchange]) -> Body:
    items: list[Body] = []
    for turn, one in enumerate(conversation):
        parts = [
            {"type": "input_text", "text": value} if kind == "text" else {"type": "input_image", "image_url": value}
            for kind, value in one.user
        ]
        items.append({"role": "user", "content": parts})
        if one.noise:
            items.append({"type": "web_search_call", "id": "s"})
        items += [
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
            for text in one.texts
        ]
        items += [
            {"type": "function_call", "call_id": call_id(turn, at), "name": name, "arguments": json.dumps(made)}
            for at, (name, made, _) in enumerate(one.calls)
        ]
        for at in one.order:
            text, image = one.calls[at][2]
            output = [{"type": "input_text", "text": text}]
            if image is not None:
                output.append({"type": "input_image", "image_url": image})
            items.append({"type": "function_call_output", "call_id": call_id(turn, at), "output": output})
    items.append({"role": "user", "content": LAST})
    tools = [{"type": "function", "name": name, "parameters": {}} for name in NAMES]
    return {"model": "m", "input": items, "tools": tools}


@pytest.mark.parametrize(
    ("translate", "write", "notes"),
    [
        (chat_of_message, as_message_request, {"cache_control", "server_tool_use"}),
        (chat_of_response, as_response_request, {"web_search_call"}),
    ],
)
@given(conversation=conversations)
def test_a_chat_says_what_the_request_says(translate, write, notes, conversation):
    dropped = Dropped()
    chat, about = translate(write(conversation), dropped)
    assert in_chat(chat, about) == said(conversation)
    is_marked = any(one.noise and any(kind == "text" for kind, _ in one.user) for one in conversation)
    expected = notes - (set() if is_marked else {"cache_control"}) if any(one.noise for one in conversation) else set()
    assert {entry.removeprefix("untranslated=") for entry in dropped.entries} == expected


# --- answers --------------------------------------------------------------------------------------

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
    _, about = chat_of_message(asked, Dropped())
    sent = data.draw(answers(dict(about.tools)))
    completion = {"choices": [{"index": 0, "message": {**sent}, "finish_reason": "stop"}]}
    message = json.loads(MessageAnswer(defaults(), "up", about, keeps_texts=True).whole(completion))
    results = results_of(sent, "tool_result", "tool_use_id", content="x")
    turns = [{"role": "assistant", "content": message["content"]}, {"role": "user", "content": results or "And?"}]
    dropped = Dropped()
    chat, _ = chat_of_message({**asked, "messages": [*asked["messages"], *turns]}, dropped)
    assert parsed(chat["messages"][1]) == parsed(sent)
    assert dropped.entries == ()


@given(st.data())
def test_an_answer_returns_to_the_chat_as_it_came_from_a_response(data):
    asked = {"model": "m", "tools": RESPONSE_TOOLS, "input": [{"role": "user", "content": "Hi"}]}
    _, about = chat_of_response(asked, Dropped())
    sent = data.draw(answers(dict(about.tools)))
    completion = {"choices": [{"index": 0, "message": {**sent}, "finish_reason": "stop"}]}
    response = json.loads(ResponseAnswer(defaults(), "up", about, keeps_texts=True).whole(completion))
    results = results_of(sent, "function_call_output", "call_id", output="x")
    dropped = Dropped()
    chat, _ = chat_of_response({**asked, "input": [*asked["input"], *response["output"], *results]}, dropped)
    assert parsed(chat["messages"][1]) == parsed(sent)
    assert dropped.entries == ()
