"""Calls to adapt."""

from typing import Any

from gatepass.types import Call, ClientProtocol, Operation, Target

CHAT = Operation("chat", "POST", "/chat/completions", ClientProtocol.CHAT, "")
EMBEDDINGS = Operation("embeddings", "POST", "/embeddings", ClientProtocol.EMBEDDINGS, "")
RESPONSES = Operation("responses", "POST", "/responses", ClientProtocol.RESPONSES, "")
MODELS = Operation("models", "GET", "/models", ClientProtocol.MODELS, "")
TARGET = Target("chat")


def a_call(body: bytes, operation: Operation = CHAT, **fields: Any) -> Call:
    return Call("id", operation, "caller", fields.pop("model", "m"), body, (), **fields)
