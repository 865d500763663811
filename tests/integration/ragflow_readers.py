"""Read replies as strictly as RAGFlow. Misread is raised where RAGFlow would show an error or nothing.

Each message is that of the client (rag/llm/*.py at v0.26.1 to b1b8cd6235, openai-python 2.41 below
it, and internal/entity/models/*.go).
"""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

GO_LINE_BYTES = 1024 * 1024

Reader = Callable[[Mapping[str, str], bytes], Any]
"""RAGFlow's result for the head and the body of a 200: a text, calls, vectors, ranks, names."""


class Misread(AssertionError):
    """The text that RAGFlow's user would see instead of an answer."""


# --- plain replies --------------------------------------------------------------------------------------


def _message(body: bytes) -> dict[str, Any]:
    reply = json.loads(body)
    if not reply.get("choices"):
        raise Misread("a silent empty answer")
    message: dict[str, Any] = reply["choices"][0]["message"]
    return message


def chat(_: Mapping[str, str], body: bytes) -> str:
    return (_message(body).get("content") or "").strip()


def chat_go(_: Mapping[str, str], body: bytes) -> str:
    """RAGFlow 1.0: a content or thoughts that are text, or calls."""
    if json.loads(body).get("error") is not None:
        raise Misread("upstream error")
    message = _message(body)
    texts = [message.get(name) for name in ("content", "reasoning_content")]
    if not message.get("tool_calls") and not any(isinstance(text, str) for text in texts):
        raise Misread("no choices in response")
    return (texts[0] or "").strip()


def vision(headers: Mapping[str, str], body: bytes) -> str:
    usage = json.loads(body).get("usage")
    if usage is None:
        raise Misread("'NoneType' object has no attribute 'total_tokens'")
    if not isinstance(usage["total_tokens"], int):
        raise Misread("total_tokens is no number")
    return chat(headers, body)


def _call(name: str, arguments: Any) -> tuple[str, Any]:
    if not isinstance(arguments, str):
        raise Misread("the JSON object must be str, bytes or bytearray, not dict")
    return name, json.loads(arguments)


# --- streams --------------------------------------------------------------------------------------------


def _chunks(headers: Mapping[str, str], body: bytes) -> Iterator[dict[str, Any]]:
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


def chat_stream(headers: Mapping[str, str], body: bytes) -> str:
    text = ""
    for chunk in _chunks(headers, body):
        if not chunk["choices"]:
            continue
        delta = chunk["choices"][0]["delta"]
        if delta is None:
            raise Misread("'NoneType' object has no attribute 'content'")
        text += delta.get("content") or ""
        if not isinstance((chunk.get("usage") or {"total_tokens": 0})["total_tokens"], int):
            raise Misread("unsupported operand type(s) for +=: 'int' and 'NoneType'")
    if not text:
        raise Misread("a silent empty answer")
    return text


def vision_stream(headers: Mapping[str, str], body: bytes) -> str:
    """It reads `choices[0]` of every chunk, and `usage` of the last chunk."""
    text = ""
    for chunk in _chunks(headers, body):
        if not chunk["choices"]:
            raise Misread("list index out of range")
        choice = chunk["choices"][0]
        content = choice["delta"].get("content")
        text += content or ""
        if content and choice.get("finish_reason") == "stop" and chunk.get("usage") is None:
            raise Misread("'NoneType' object has no attribute 'total_tokens'")
    return text


def tools_stream(headers: Mapping[str, str], body: bytes) -> list[tuple[str, Any]]:
    """Calls are collected by `index`; Go drops a delta without a number there."""
    calls: dict[int, dict[str, Any]] = {}
    finish = None
    for chunk in _chunks(headers, body):
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


def vectors(_: Mapping[str, str], body: bytes) -> list[list[float]]:
    """In the order in which they come: v0.26.0 and older do not look at `index`, newer ones sort by it."""
    reply = json.loads(body)
    if not isinstance(reply["usage"]["total_tokens"], int):
        raise Misread("unsupported operand type(s) for +=: 'int' and 'NoneType'")
    if [entry["index"] for entry in reply["data"]] != list(range(len(reply["data"]))):
        raise Misread("'<' not supported between instances of 'NoneType' and 'NoneType', or vectors in a wrong order")
    found: list[list[float]] = [entry["embedding"] for entry in reply["data"]]
    if not all(isinstance(vector, list) for vector in found):
        raise Misread("vectors are texts")
    return found


def packed_vectors(headers: Mapping[str, str], body: bytes) -> list[list[float]]:
    """openai-python decodes text only."""
    reply = json.loads(body)
    for entry in reply["data"]:
        if isinstance(entry["embedding"], str):
            entry["embedding"] = memoryview(b64decode(entry["embedding"])).cast("f").tolist()
    return vectors(headers, json.dumps(reply).encode())


def ranks(_: Mapping[str, str], body: bytes) -> dict[int, float]:
    reply = json.loads(body)
    if not isinstance(reply, dict) or not reply.get("results"):
        raise Misread("zeros")
    return {result["index"]: result["relevance_score"] for result in reply["results"]}


def ranks_tei(_: Mapping[str, str], body: bytes) -> dict[int, float]:
    reply = json.loads(body)
    if not isinstance(reply, list) or not reply:
        raise Misread("zeros")
    return {result["index"]: result["score"] for result in reply}


def transcript(_: Mapping[str, str], body: bytes) -> Any:
    return json.loads(body)["text"]


def speech(_: Mapping[str, str], body: bytes) -> bytes:
    return body


def models(_: Mapping[str, str], body: bytes) -> list[str]:
    return [entry["id"] for entry in json.loads(body)["data"]]
