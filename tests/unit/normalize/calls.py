"""Calls to adapt."""

from typing import Any

from gatepass.types import Call, Operation, Surface, Target

CHAT = Operation("chat", "POST", "/chat/completions", Surface.CHAT, "")
EMBEDDINGS = Operation("embeddings", "POST", "/embeddings", Surface.EMBEDDINGS, "")
RESPONSES = Operation("responses", "POST", "/responses", Surface.RESPONSES, "")
MODELS = Operation("models", "GET", "/models", Surface.MODELS, "")
TARGET = Target("chat")


def a_call(body: bytes, operation: Operation = CHAT, **fields: Any) -> Call:
    return Call("id", operation, "caller", fields.pop("model", "m"), body, (), **fields)
