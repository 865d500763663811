"""A case in the words of the chat API."""

from __future__ import annotations

import json
from typing import Any

from harness import Told, add


def content(told: Told) -> Any:
    """What the user says: the question, with the picture where the case is about one."""
    parts = [{"type": "text", "text": told["question"]}, {"type": "image_url", "image_url": {"url": told["picture"]}}]
    return parts if told["kind"] == "picture" else told["question"]


def opening(told: Told) -> list[Any]:
    return [{"role": "user", "content": content(told)}]


def extras(told: Told) -> dict[str, Any]:
    """The members that only some cases have."""
    made: dict[str, Any] = {}
    if told["kind"] in ("tools", "rounds"):
        made["tools"] = [{"type": "function", "function": told["tool"]}]
        made["parallel_tool_calls"] = True
    if told["kind"] == "stray":
        made["extra_body"] = {"images": [told["picture"]]}
    return made


def result(known: str | None, arguments: str) -> dict[str, Any]:
    """The message that answers the call `known` of the tool."""
    return {"role": "tool", "tool_call_id": known, "content": str(add(**json.loads(arguments)))}
