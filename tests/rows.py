"""Rows of the operation table, for tests that need the operation of a call."""

from gatepass.protocols.operations import match_operation
from gatepass.types import Operation


def row(path: str, method: str = "POST") -> Operation:
    return match_operation(method, path).operation


CHAT, EMBEDDINGS = row("/chat/completions"), row("/embeddings")
RERANK, RESPONSES, MESSAGES = row("/rerank"), row("/responses"), row("/messages")
MODELS, FILES = row("/models", "GET"), row("/files", "GET")
