"""Read replies as strictly as RAGFlow. Misread is raised where RAGFlow would show an error or nothing.

Each message is that of the client (rag/llm/*.py at v0.26.1 to b1b8cd6235, openai-python 2.41 below
it, and internal/entity/models/*.go).
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from tests.integration.ragflow_requests import Reads

GO_LINE_BYTES = 1024 * 1024


class Misread(AssertionError):
    """The text that RAGFlow's user would see instead of an answer."""


def read(reads: Reads, status: int, headers: Mapping[str, str], body: bytes) -> Any:
    """RAGFlow's result for a response: a text, calls, vectors, ranks, names."""
    if status != 200:
        raise Misread(f"Error code: {status} - {body[:300]!r}")
    return _READERS[reads](headers, body)


# --- plain replies --------------------------------------------------------------------------------------


def _message(body: bytes) -> dict[str, Any]:
    reply = json.loads(body)
    if not reply.get("choices"):
        raise Misread("a silent empty answer")
    message: dict[str, Any] = reply["choices"][0]["message"]
    return message


def _chat(_: Mapping[str, str], body: bytes) -> str:
    return (_message(body).get("content") or "").strip()


def _vision(headers: Mapping[str, str], body: bytes) -> str:
    usage = json.loads(body).get("usage")
    if usage is None:
        raise Misread("'NoneType' object has no attribute 'total_tokens'")
    if not isinstance(usage["total_tokens"], int):
        raise Misread("total_tokens is no number")
    content = _message(body)["content"]
    if content is None:
        raise Misread("'NoneType' object has no attribute 'strip'")
    return _chat(headers, body)


def _tools(_: Mapping[str, str], body: bytes) -> list[tuple[str, Any]]:
    calls = _message(body).get("tool_calls") or []
    return [_call(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def _go_chat(headers: Mapping[str, str], body: bytes) -> str:
    if json.loads(body).get("error") is not None:
        raise Misread("error")
    content = _message(body).get("content")
    if not isinstance(content, str):
        raise Misread("no choices in response")
    return _chat(headers, body)


def _call(name: str, arguments: Any) -> tuple[str, Any]:
    if not isinstance(arguments, str):
        raise Misread("the JSON object must be str, bytes or bytearray, not dict")
    return name, json.loads(arguments)


# --- streams --------------------------------------------------------------------------------------------


def chunks(headers: Mapping[str, str], body: bytes) -> Iterator[dict[str, Any]]:
    """The chunks of a stream, as openai-python gives them; every line as Go's scanner takes it."""
    if not headers.get("content-type", "").startswith("text/event-stream"):
        raise Misread("a silent empty answer: no event stream")
    has_ended = False
    for line in body.decode().splitlines():
        if len(line.encode()) > GO_LINE_BYTES:
            raise Misread("bufio.Scanner: token too long")
        data = line.removeprefix("data:").strip() if line.startswith("data:") else None
        if data == "[DONE]":
            has_ended = True
        elif data is not None:
            chunk: dict[str, Any] = json.loads(data)
            if chunk.get("error"):
                raise Misread(f"GENERIC_ERROR - {chunk['error']}")
            yield chunk
    if not has_ended:
        raise Misread("stream ended before [DONE] or finish_reason")


def _chat_stream(headers: Mapping[str, str], body: bytes) -> str:
    text, total = "", 0
    for chunk in chunks(headers, body):
        if not chunk["choices"]:
            continue
        delta = chunk["choices"][0]["delta"]
        if delta is None:
            raise Misread("'NoneType' object has no attribute 'content'")
        text += delta.get("content") or ""
        total += _total(chunk)
    if not text:
        raise Misread("a silent empty answer")
    return text


def _total(chunk: dict[str, Any]) -> int:
    usage = chunk.get("usage") or {"total_tokens": 0}
    if not isinstance(usage["total_tokens"], int):
        raise Misread("unsupported operand type(s) for +=: 'int' and 'NoneType'")
    return usage["total_tokens"]


def _totals_stream(headers: Mapping[str, str], body: bytes) -> str:
    """LiteLLM's callers add up every usage that they receive."""
    totals = [_total(chunk) for chunk in chunks(headers, body) if chunk.get("usage")]
    if len(totals) != 1:
        raise Misread(f"usage {len(totals)} times")
    return _chat_stream(headers, body)


def _vision_stream(headers: Mapping[str, str], body: bytes) -> str:
    """It reads `choices[0]` of every chunk, and `usage` of the last chunk."""
    text = ""
    for chunk in chunks(headers, body):
        if not chunk["choices"]:
            raise Misread("list index out of range")
        choice = chunk["choices"][0]
        content = choice["delta"].get("content")
        text += content or ""
        if content and choice.get("finish_reason") == "stop" and chunk.get("usage") is None:
            raise Misread("'NoneType' object has no attribute 'total_tokens'")
    return text


def _tools_stream(headers: Mapping[str, str], body: bytes) -> list[tuple[str, Any]]:
    """Calls are collected by `index`; Go drops a delta without a number there."""
    calls: dict[int, dict[str, Any]] = {}
    finish = None
    for chunk in chunks(headers, body):
        for choice in chunk["choices"][:1]:
            finish = choice.get("finish_reason") or finish
            for delta in choice["delta"].get("tool_calls") or []:
                if not isinstance(delta.get("index"), int):
                    raise Misread("a tool call without an index is dropped")
                function = delta.get("function") or {}
                if delta["index"] not in calls:
                    calls[delta["index"]] = {"id": delta["id"], "name": function["name"], "arguments": ""}
                calls[delta["index"]]["arguments"] += function.get("arguments") or ""
    if finish != "tool_calls":
        raise Misread(f"the round ends with {finish}")
    return [_call(call["name"], call["arguments"]) for call in calls.values()]


# --- the rest -------------------------------------------------------------------------------------------


def _vectors(_: Mapping[str, str], body: bytes) -> list[list[float]]:
    """In the order in which they come: v0.26.0 and older do not look at `index`, newer ones sort by it."""
    reply = json.loads(body)
    if not isinstance(reply["usage"]["total_tokens"], int):
        raise Misread("unsupported operand type(s) for +=: 'int' and 'NoneType'")
    if [entry["index"] for entry in reply["data"]] != list(range(len(reply["data"]))):
        raise Misread("'<' not supported between instances of 'NoneType' and 'NoneType', or vectors in a wrong order")
    vectors: list[list[float]] = [entry["embedding"] for entry in reply["data"]]
    if not all(isinstance(vector, list) for vector in vectors):
        raise Misread("vectors are texts")
    return vectors


def _packed_vectors(headers: Mapping[str, str], body: bytes) -> list[list[float]]:
    """openai-python decodes text only."""
    reply = json.loads(body)
    for entry in reply["data"]:
        if isinstance(entry["embedding"], str):
            entry["embedding"] = memoryview(b64decode(entry["embedding"])).cast("f").tolist()
    return _vectors(headers, json.dumps(reply).encode())


def _ranks(_: Mapping[str, str], body: bytes) -> dict[int, float]:
    reply = json.loads(body)
    if not isinstance(reply, dict) or not reply.get("results"):
        raise Misread("zeros")
    return {result["index"]: result["relevance_score"] for result in reply["results"]}


def _ranks_tei(_: Mapping[str, str], body: bytes) -> dict[int, float]:
    reply = json.loads(body)
    if not isinstance(reply, list) or not reply:
        raise Misread("zeros")
    return {result["index"]: result["score"] for result in reply}


def _transcript(_: Mapping[str, str], body: bytes) -> str:
    text = json.loads(body)["text"]
    if not isinstance(text, str):
        raise Misread("no text")
    return text


def _speech(_: Mapping[str, str], body: bytes) -> bytes:
    return body


def _models(_: Mapping[str, str], body: bytes) -> list[str]:
    names = [entry["id"] for entry in json.loads(body)["data"]]
    if not names:
        raise Misread("No models found for provider")
    return names


_READERS: Mapping[Reads, Callable[[Mapping[str, str], bytes], Any]] = MappingProxyType(
    {
        Reads.CHAT: _chat,
        Reads.CHAT_STREAM: _chat_stream,
        Reads.TOOLS: _tools,
        Reads.TOOLS_STREAM: _tools_stream,
        Reads.TOTALS_STREAM: _totals_stream,
        Reads.VISION: _vision,
        Reads.VISION_STREAM: _vision_stream,
        Reads.VECTORS: _vectors,
        Reads.PACKED_VECTORS: _packed_vectors,
        Reads.RANKS: _ranks,
        Reads.RANKS_TEI: _ranks_tei,
        Reads.TRANSCRIPT: _transcript,
        Reads.SPEECH: _speech,
        Reads.MODELS: _models,
        Reads.GO_CHAT: _go_chat,
        Reads.GO_STREAM: _chat_stream,
    }
)
