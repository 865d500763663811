"""Compare answers of llama.cpp over its own Responses and Messages API with those that gatepass makes of its chats."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tests.e2e.clients.conversation import PICTURE

Document = dict[str, Any]
NEW = frozenset(("id", "item_id", "call_id", "created_at", "completed_at", "request_id"))
"""Members with ids and times, which differ between two answers of one server too."""
ABSENT = "absent"

ARGUMENTS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"type": "function", "name": "weather", "parameters": ARGUMENTS, "strict": False}
TOOL = {"name": "weather", "input_schema": ARGUMENTS}
LONG = "the " * 5000
TURN: list[Any] = [
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"a"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "a token"},
]
BLOCKS: list[Any] = [
    {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "a"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "a token"}]},
]


def user(content: Any) -> Document:
    return {"role": "user", "content": content}


RESPONSES: dict[str, Document] = {
    "text": {"input": "the gate", "max_output_tokens": 8},
    "system": {"input": [user("the gate")], "instructions": "every word", "max_output_tokens": 8},
    "turn": {"input": [user("the gate"), *TURN], "max_output_tokens": 8},
    "call": {"input": "call", "tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
    "calls": {"input": "call", "tools": [FUNCTION], "tool_choice": "required", "max_output_tokens": 300},
    "named": {"input": "call", "tools": [FUNCTION], "tool_choice": {"type": "function", "name": "weather"}},
    "image": {"input": [user([{"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"}])]},
    "overflow": {"input": LONG},
}
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE}
MESSAGES: dict[str, Document] = {
    "text": {"messages": [user("the gate")], "max_tokens": 8},
    "system": {"messages": [user("the gate")], "system": "every word", "max_tokens": 8},
    "turn": {"messages": [user("the gate"), *BLOCKS], "max_tokens": 8},
    "calls": {"messages": [user("call")], "tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": 300},
    "named": {
        "messages": [user("call")], "tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"},
        "max_tokens": 300,
    },
    "stop": {"messages": [user("the gate")], "stop_sequences": ["st"], "max_tokens": 60},
    "stop at once": {"messages": [user("the gate")], "stop_sequences": ["e"], "max_tokens": 60},
    "image": {"messages": [user([{"type": "image", "source": SOURCE}])], "max_tokens": 8},
    "overflow": {"messages": [user(LONG)], "max_tokens": 8},
}  # fmt: skip
CASES = {"responses": RESPONSES, "messages": MESSAGES}
MODELS = {"call": "tiny-call", "calls": "tiny-calls", "named": "tiny-call"}
"""The models of the cases, of which the others have `tiny-chat`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is different at `places` of the answers of `cases`, and why. `native` and `translated` are shown."""

    api: str
    cases: str
    places: tuple[str, ...]
    native: str
    translated: str
    reason: str


DIFFERENCES = (
    Difference("responses", "text system turn calls", ("status", "*.status", "last.type"),
               "`completed`, for an answer that `max_output_tokens` ended", "`incomplete`", "OpenAI's API says so."),
    Difference("responses", "call calls", ("order",),
               "no event `function_call_arguments.done`, and each `output_item.done` at the end",
               "one whole item after the other", "Clients read the items in the order of OpenAI's API."),
    Difference("responses", "calls", ("response.function_call_arguments.delta/*",),
               "the pieces of each call", "those of a further call as one, at the end", "See the order."),
    Difference("responses", "*", ("last.timings.*",),
               "`timings`", "left out", "They are llama.cpp's own."),
    Difference("responses", "image overflow", ("error.code",),
               "the status, as a number", "a text; `context_length_exceeded` for an overflow",
               "The types of the SDKs require a text, and Codex compacts at this one."),
    Difference("responses", "overflow", ("error.n_*",),
               "`n_prompt_tokens`, `n_ctx` in `error`", "left out",
               "They are llama.cpp's own."),
    Difference("responses", "named", ("*",),
               "an empty answer", "`upstream_empty`",
               "llama.cpp ignores a function that `tool_choice` names, and gatepass relays no empty answer."),
    Difference("messages", "*", ("message_start/0.message.usage.*",),
               "the input tokens", "0; the figures are in `message_delta`", "A chat states its usage at its end."),
    Difference("messages", "stop", ("stop_sequence", "*.stop_sequence"),
               "the sequence", "`null`", "llama.cpp's chats do not name the sequence that they met."),
    Difference("messages", "calls", ("order",),
               "each `content_block_stop` at the end", "one whole block after the other",
               "Clients read one block after the other."),
    Difference("messages", "calls", ("content_block_delta/*",),
               "the pieces of each call", "those of a further call as one, at the end", "See the order."),
    Difference("messages", "image overflow", ("error.code", "error.type"),
               "llama.cpp's own types and codes", "Anthropic's `type`, the code as a text",
               "Clients choose their exception by the type."),
    Difference("messages", "overflow", ("error.message",),
               "llama.cpp's text", "the same with `capability_rejected: prompt_too_long`",
               "Claude Code compacts at it."),
    Difference("messages", "overflow", ("error.n_*",),
               "`n_prompt_tokens`, `n_ctx`", "left out", "An error of Anthropic has no such member."),
    Difference("messages", "named", ("*",),
               "the call", "`upstream_empty`, or the model answers without a call",
               "llama.cpp's chats ignore a function that `tool_choice` names."),
    Difference("messages", "stop at once", ("*",),
               "an empty answer", "`upstream_empty`", "gatepass relays no empty answer."),
)  # fmt: skip


def explained(api: str, case: str, place: str) -> Difference | None:
    """Return the row of DIFFERENCES for the member at `place`."""
    for one in DIFFERENCES:
        is_case = one.cases in ("*", case) or case in one.cases.split()
        if one.api == api and is_case and any(fnmatchcase(place, pattern) for pattern in one.places):
            return one
    return None


def document(body: str) -> Document:
    """Return a whole reply, or the events of a stream by type and number, with the order of their types."""
    if not body.startswith("event:"):
        whole: Document = json.loads(body)
        return whole
    found: Document = {}
    order: list[str] = []
    for line in body.splitlines():
        if not line.startswith("data:"):
            continue
        event = json.loads(line.removeprefix("data:"))
        kind = event["type"]
        if kind in ("response.completed", "response.incomplete"):
            found["last"] = event
            continue
        found[f"{kind}/{sum(name.startswith(f'{kind}/') for name in found)}"] = event
        order += [kind] if order[-1:] != [kind] else []
    return {**found, "order": " ".join(order)}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of each member that is no object or list, without ids and times."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            if name not in NEW:
                yield from leaves(inner, f"{place}.{name}" if place else name)
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{place}.{number}")
    else:
        yield place, value


def differences(native: Any, translated: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path and both values of each difference."""
    first, second = dict(leaves(native)), dict(leaves(translated))
    for place in {**first, **second}:
        pair = first.get(place, ABSENT), second.get(place, ABSENT)
        if pair[0] != ABSENT and (pair[0] != pair[1] or type(pair[0]) is not type(pair[1])):
            yield place, *pair
