"""Streams as upstreams send them, and two clients that read them: what the tests of the relay share."""

import json
from collections.abc import Iterator
from typing import Any

from gatepass.sse.chunk import StreamSource
from gatepass.sse.event_stream import EventStream
from gatepass.types import UpstreamErrorBody

LIMIT_BYTES = 1 << 20
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o-240806-deploy-gs",
        "choices": choices,
        **more,
    }


def data(payload: Any, *, spaced: bool = False, gap: bytes = b" ", end: bytes = b"\n\n") -> bytes:
    text = json.dumps(payload, ensure_ascii=False, separators=None if spaced else (",", ":"))
    return b"data:" + gap + text.encode() + end


def text(content: str, **more: Any) -> bytes:
    return data(chunk({"content": content}, **more))


_TOOL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}

REALISTIC = [
    data(chunk({"role": "assistant", "content": ""})),
    data(chunk({"role": "assistant", "content": ""}, index=1)),
    text('He said "hi" and wrote\n\ndata: [DONE]\n\nand \'"finish_reason":"stop"\''),
    text(" größer 東京 🚀"),
    text(" plain"),
    text(" as well"),
    data(chunk({"content": "the other\\"}, index=1)),
    data(chunk({"tool_calls": [_TOOL]})),
    data(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]})),
    data(chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "Bern"}'}}]})),
    data(chunk({}, finish="stop", index=1)),
    data(chunk({}, finish="tool_calls")),
    data(chunk(None, usage={"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18})),
    DONE,
]
"""Two choices, one of them with a tool call, content that quotes the protocol, usage, `[DONE]`."""


def with_line_ends(stream: bytes, end: bytes) -> bytes:
    return stream.replace(b"\n", end)


def pieces(stream: bytes, size_bytes: int) -> Iterator[bytes]:
    return (stream[at : at + size_bytes] for at in range(0, len(stream), size_bytes))


def read_error(payload: Any) -> UpstreamErrorBody | None:
    """Reads some shapes of errors, as gatepass.dialects does for many more; masks one secret."""
    if isinstance(payload, list):
        return read_error(payload[0]) if payload else None
    if not isinstance(payload, dict):
        return None
    error = payload.get("error")
    if isinstance(error, str) and error:
        return UpstreamErrorBody(_mask(error))
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return _error_body(error)
    failed = payload.get("object") == "error" or payload.get("code") not in (None, 0, 200)
    return _error_body(payload) if failed and isinstance(payload.get("message"), str) else None


def _error_body(error: dict[str, Any]) -> UpstreamErrorBody:
    status, kind, code, param = (error.get(name) for name in ("status", "type", "code", "param"))
    more = {name: value for name, value in error.items() if name not in ("message", "type", "code", "param")}
    return UpstreamErrorBody(
        _mask(error["message"]),
        status=status,
        kind=kind,
        code=None if code is None else str(code),
        param=param,
        raw=error if more else None,
    )


def _mask(payload: str) -> str:
    return payload.replace("tok-secret", "•••")


def new_stream(**more: Any) -> EventStream:
    return EventStream(StreamSource("chat", LIMIT_BYTES, read_error), **more)


def state(stream: EventStream) -> dict[str, Any]:
    """The state that a caller can see."""
    failure = stream.failure
    return {
        "failure": None if failure is None else (type(failure).__name__, failure.message, failure.hop),
        "done": stream.done,
        "has_answered": stream.has_answered,
        "events": stream.events,
        "usage": stream.usage,
        "adapted": stream.adapted,
    }


def code(stream: EventStream) -> str | None:
    return stream.failure.code if stream.failure else None


def client_reads(stream: bytes) -> list[str]:
    """The data of each event as openai-python 3.51 makes them: an id is kept and makes an event of
    every blank line, and what no blank line ends is lost."""
    events: list[str] = []
    lines, name, identity, retry = list[str](), "", "", False
    for raw in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("utf-8").split("\n")[:-1]:
        field, _, value = raw.partition(":")
        value = value.removeprefix(" ")
        if not raw:
            if lines or name or identity or retry:
                events.append("\n".join(lines))
            lines, name, retry = [], "", False
        elif field == "data":
            lines.append(value)
        elif field == "event":
            name = value
        elif field == "id":
            identity = value
        elif field == "retry" and value.isdigit():
            retry = True
    return events


def looks_finished(stream: bytes) -> bool:
    return "[DONE]" in client_reads(stream)
