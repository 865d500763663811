"""The chat replies of the strict upstream: a text, a description of a picture, and ten rounds of parallel tool calls.

Each reply depends on the whole conversation so far. The upstream rejects a tool call with wrong arguments, a missing
tool result and a changed picture, so no reply is right by chance.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.integration.strict_azure import TEXT, Refused

QUESTION = "What colour is the sky? 蓝"
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""
PICTURE_ANSWER = f"A picture of {len(base64.b64decode(PICTURE))} bytes, and the sky is 蓝."
ROUNDS = 10
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["a", "b", "note"],
}
TOOL = {"name": "add", "description": "The sum of two numbers.", "parameters": PARAMETERS}

Call = dict[str, Any]
Message = dict[str, Any]


def calls_of(number: int, total: int) -> list[Call]:
    """Return the two or three calls of round `number`. Their arguments contain the `total` of the earlier rounds."""
    return [
        {
            "id": f"call_{number}_{index}",
            "name": TOOL["name"],
            "arguments": {"a": total, "b": 10 * number + index, "note": f'é蓝 "{index}" \\'},
        }
        for index in range(2 + number % 2)
    ]


def total_of(calls: list[Call]) -> int:
    """Return the total after `calls`, modulo 1,000."""
    total: int = sum(call["arguments"]["a"] + call["arguments"]["b"] for call in calls)
    return total % 1000


def full_conversation() -> tuple[list[Call], str]:
    """Return all calls of the conversation in order, and its final text."""
    made: list[Call] = []
    total = 0
    for number in range(ROUNDS):
        calls = calls_of(number, total)
        made += calls
        total = total_of(calls)
    return made, final_text(total)


def final_text(total: int) -> str:
    return f"The sum is {total}: 蓝."


def message(body: Mapping[str, Any]) -> Message:
    """Return the reply to a chat; raise Refused if the conversation is incomplete or changed."""
    messages = body["messages"]
    if not any(QUESTION in text for text in _texts(messages)):
        raise Refused("The question is missing.", param="messages")
    if body.get("tools"):
        return _next_round(body, messages)
    pictures = _pictures(messages)
    if any(url != f"data:image/png;base64,{PICTURE}" for url in pictures):
        raise Refused("The picture is not the one that was sent.", param="messages")
    return {"role": "assistant", "content": PICTURE_ANSWER if pictures else TEXT}


def _next_round(body: Mapping[str, Any], messages: list[Message]) -> Message:
    if [tool["function"]["name"] for tool in body["tools"]] != [TOOL["name"]]:
        raise Refused("The tool is missing.", param="tools")
    number, total = _check_rounds(messages)
    if number == ROUNDS:
        return {"role": "assistant", "content": final_text(total)}
    return {"role": "assistant", "content": None, "tool_calls": [_tool_call(call) for call in calls_of(number, total)]}


def _tool_call(call: Call) -> dict[str, Any]:
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _check_rounds(messages: list[Message]) -> tuple[int, int]:
    """Return the number of completed rounds and their total; raise Refused if one was changed."""
    number, total = 0, 0
    for at, one in enumerate(messages):
        if one["role"] == "assistant" and one.get("tool_calls"):
            calls = calls_of(number, total)
            _check_calls(one["tool_calls"], calls)
            _check_results(messages[at + 1 : at + 1 + len(calls)], calls)
            number, total = number + 1, total_of(calls)
    return number, total


def _check_calls(sent: list[dict[str, Any]], calls: list[Call]) -> None:
    found = [
        {"id": call["id"], "name": call["function"]["name"], "arguments": _parsed(call["function"]["arguments"])}
        for call in sent
    ]
    if found != calls:
        raise Refused(f"These calls were never made: {found}, but {calls}.", param="messages")


def _check_results(following: list[Message], calls: list[Call]) -> None:
    results = {one.get("tool_call_id"): one.get("content") for one in following if one["role"] == "tool"}
    if set(results) != {call["id"] for call in calls}:
        text = "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
        raise Refused(f"{text} 'tool_call_id'.", param="messages")
    for call in calls:
        expected = call["arguments"]["a"] + call["arguments"]["b"]
        if _number(results[call["id"]]) != expected:
            raise Refused(f"{results[call['id']]!r} is not {expected}, the result of {call}.", param="messages")


def _number(content: Any) -> int | None:
    """Return the first number of a result, because clients format results differently."""
    found = re.search(r"\d+", content if isinstance(content, str) else json.dumps(content))
    return None if found is None else int(found[0])


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _parts(messages: list[Message]) -> Iterator[dict[str, Any]]:
    for one in messages:
        content = one.get("content")
        yield from content if isinstance(content, list) else ({"type": "text", "text": content or ""},)


def _texts(messages: list[Message]) -> list[str]:
    return [part["text"] for part in _parts(messages) if part["type"] == "text"]


def _pictures(messages: list[Message]) -> list[str]:
    return [part["image_url"]["url"] for part in _parts(messages) if part["type"] == "image_url"]
