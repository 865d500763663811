"""The smallest request of an operation, as a client would send it: what `gatepass check` shows and tries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gatepass.operations.table import OPERATIONS
from gatepass.types import Call, Operation

WORD = "ping"


def samples(operation: str, model: str) -> tuple[Call, ...]:
    """Requests of one word for the shortest answer, in order of what upstreams take most often.

    Reasoning models refuse `max_tokens`, and an answer that has no room for their thoughts.
    """
    found = next(each for each in OPERATIONS if each.name == operation)
    return tuple(call_of(found, model, {"model": model, **body}) for body in _bodies(operation))


def call_of(operation: Operation, model: str = "", body: Mapping[str, Any] | None = None) -> Call:
    """A call of gatepass's own."""
    data = json.dumps(body).encode() if body is not None else b""
    return Call(id="gatepass-check", operation=operation, caller="gatepass", model=model, body=data, headers=())


def _bodies(operation: str) -> list[dict[str, Any]]:
    if operation == "embeddings":
        return [{"input": WORD}]
    if operation == "rerank":
        return [{"query": WORD, "documents": [WORD]}]
    if operation == "completions":
        return [{"prompt": WORD, "max_tokens": 1}]
    asked = {"messages": [{"role": "user", "content": WORD}]}
    return [{**asked, "max_tokens": 1}, {**asked, "max_completion_tokens": 16}]
