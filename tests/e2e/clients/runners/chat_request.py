"""Convert a scenario to parameters of the chat API."""

import json
from typing import Any

from harness import Scenario, add


def content(scenario: Scenario) -> Any:
    """Return the content of the user message: the question, and the picture if the scenario has one."""
    parts = [
        {"type": "text", "text": scenario["question"]},
        {"type": "image_url", "image_url": {"url": scenario["picture"]}},
    ]
    return parts if scenario["kind"] == "picture" else scenario["question"]


def first_messages(scenario: Scenario) -> list[Any]:
    return [{"role": "user", "content": content(scenario)}]


def extras(scenario: Scenario) -> dict[str, Any]:
    """Return the parameters that only some scenarios have."""
    members: dict[str, Any] = {}
    if scenario["kind"] in ("tools", "rounds"):
        members["tools"] = [{"type": "function", "function": scenario["tool"]}]
        members["parallel_tool_calls"] = True
    if scenario["kind"] == "extra_parameter":
        members["extra_body"] = {"images": [scenario["picture"]]}
    return members


def tool_message(call_id: str | None, arguments: str) -> dict[str, Any]:
    """Return the tool message for the call `call_id`."""
    return {"role": "tool", "tool_call_id": call_id, "content": str(add(**json.loads(arguments)))}
