"""Replies of an upstream that follows the standard, and functions that vary them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TEXT = "The sky is blue: 蓝 – até já."
PIECES = ("The sky ", "is blue: 蓝", " – até ", "já.")
USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
CALLS = (("weather", '{"city": "Paris"}'), ("weather", '{"city": "Rome"}'))
IDS = ("call_Paris0001", "call_Rome00002")
FIRST = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": "canned"}
JSON, EVENTS, HTML = "application/json", "text/event-stream", "text/html; charset=utf-8"
DONE = b"data: [DONE]\n\n"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One received request. `remembered` is state that the model keeps between requests."""

    body: Document
    token: str
    remembered: dict[str, Any]

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True

    @property
    def messages(self) -> list[Document]:
        found: list[Document] = self.body.get("messages", [])
        return found

    @property
    def wants_usage(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    @property
    def wants_tools(self) -> bool:
        return bool(self.body.get("tools"))

    def has(self, *names: str) -> bool:
        return any(name in self.body for name in names)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int = 200
    kind: str = JSON
    pieces: tuple[bytes, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    """Whether the connection closes before the end of the stream."""


Serve = Callable[[Request], Reply]


def encoded(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def json_reply(document: Any, status: int = 200, **headers: str) -> Reply:
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Reply(status, JSON, (encoded(document),), fields)


def event_stream(documents: Iterable[Any], *, done: bool = True) -> Reply:
    framed = tuple(b"data: " + encoded(document) + b"\n\n" for document in documents)
    return Reply(200, EVENTS, (*framed, DONE) if done else framed)


def raw_stream(*pieces: bytes) -> Reply:
    return Reply(200, EVENTS, pieces)


def error(message: str, param: str | None = None, code: str | None = None, kind: str = "invalid_request_error") -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def tool_calls() -> list[Document]:
    return [
        {"id": known, "type": "function", "function": {"name": name, "arguments": arguments}}
        for known, (name, arguments) in zip(IDS, CALLS, strict=True)
    ]


def completion(request: Request, **message: Any) -> Document:
    """Return a whole reply: tool calls if the request has tools, otherwise a text."""
    default: Document = {"role": "assistant", "content": None if request.wants_tools else TEXT}
    if request.wants_tools:
        default["tool_calls"] = tool_calls()
    finish = "tool_calls" if request.wants_tools else "stop"
    choice = {"index": 0, "message": default | message, "logprobs": None, "finish_reason": finish}
    return FIRST | {"object": "chat.completion", "choices": [choice], "usage": USAGE}


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **others: Any) -> Document:
    """Return one chunk; without `delta` the last one."""
    return FIRST | {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}]} | others


def first_chunk() -> Document:
    return chunk({"role": "assistant", "content": ""})


def text_chunks(pieces: Iterable[str] = PIECES) -> list[Document]:
    return [chunk({"content": piece}) for piece in pieces]


def tool_chunks(**first: Any) -> list[Document]:
    """Return three chunks for each call: its name, then its arguments in two pieces."""
    made: list[Document] = []
    for index, call in enumerate(tool_calls()):
        arguments = call["function"]["arguments"]
        opener = {"index": index, **call, "function": {"name": call["function"]["name"], "arguments": ""}} | first
        halves = (arguments[:6], arguments[6:])
        made += [chunk({"tool_calls": [opener]})]
        made += [chunk({"tool_calls": [{"index": index, "function": {"arguments": half}}]}) for half in halves]
    return made


def chunks(request: Request) -> list[Document]:
    """Return the chunks of a stream that follows the standard."""
    inner = tool_chunks() if request.wants_tools else text_chunks()
    made = [first_chunk(), *inner, chunk(finish="tool_calls" if request.wants_tools else "stop")]
    return [*made, FIRST | {"choices": [], "usage": USAGE}] if request.wants_usage else made


def compliant(request: Request) -> Reply:
    return event_stream(chunks(request)) if request.stream else json_reply(completion(request))


def streaming(documents: Callable[[Request], Iterable[Any]], *, done: bool = True) -> Serve:
    """Return a standard whole reply, and the stream that `documents` makes."""
    return lambda request: event_stream(documents(request), done=done) if request.stream else compliant(request)


def framed(frame: Callable[[list[bytes]], Iterable[bytes]]) -> Serve:
    """Return standard chunks in the framing of `frame`."""

    def serve(request: Request) -> Reply:
        return (
            raw_stream(*frame([encoded(document) for document in chunks(request)]))
            if request.stream
            else compliant(request)
        )

    return serve


def always(reply: Reply) -> Serve:
    return lambda request: reply


def rejecting(when: Callable[[Request], bool], document: Any, status: int = 400) -> Serve:
    """Return `document` if `when` holds, otherwise a standard reply."""
    return lambda request: json_reply(document, status) if when(request) else compliant(request)
