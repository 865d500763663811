"""The `openai` client for Python, 2.x or 3.x, on the rows: a list of calls on stdin, what it saw of each on stdout.

OPENAI_BASE_URL and OPENAI_API_KEY are all it is told. A call is `{"model", "way", "body"}`; what was seen is
`{"text", "calls", "usage", "finish", "chunks", "vectors", "error"}`.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import OpenAI

PARALLEL = 6
TIMEOUT_S = 20.0
STUCK_S = 90.0
"""After so long it says where it stands, and ends."""


def complaint(error: BaseException) -> dict[str, Any]:
    """What a person or a program can read of it."""
    reply = getattr(error, "response", None)
    headers = {} if reply is None else reply.headers
    return {
        "class": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "retry_after": headers.get("retry-after"),
        "should_retry": headers.get("x-should-retry"),
    }


class Seen:
    def __init__(self) -> None:
        self.text = ""
        self.calls: dict[Any, list[str]] = {}
        self.usage: dict[str, Any] | None = None
        self.finish: str | None = None
        self.role: str | None = None
        self.chunks = 0
        self.vectors: list[Any] | None = None

    def as_json(self, error: BaseException | None) -> dict[str, Any]:
        told = None if error is None else complaint(error)
        return vars(self) | {"calls": list(self.calls.values()), "error": told}


def split(body: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The messages, and all the rest as it goes into the request."""
    return body["messages"], {name: value for name, value in body.items() if name != "messages"}


def plain(client: OpenAI, model: str, body: dict[str, Any], seen: Seen) -> None:
    messages, rest = split(body)
    whole(client.chat.completions.create(model=model, messages=messages, extra_body=rest), seen)


def whole(answer: Any, seen: Seen) -> None:
    seen.usage = answer.usage and answer.usage.model_dump()
    for choice in answer.choices or ():
        message = choice.message
        seen.role, seen.finish = message.role, choice.finish_reason
        seen.text += message.content or ""
        for call in message.tool_calls or ():
            seen.calls[len(seen.calls)] = [call.function.name, call.function.arguments]


def raw(client: OpenAI, model: str, body: dict[str, Any], seen: Seen) -> None:
    """As people write the loop; tool calls by their index.

    The stream is closed in any case: one that an exception leaves behind is closed by the garbage collector, which
    may run while the same thread holds the lock of httpcore's pool, and then waits for that lock for ever.
    """
    messages, rest = split(body)
    with client.chat.completions.create(model=model, messages=messages, stream=True, extra_body=rest) as stream:
        for chunk in stream:
            note(chunk, seen)


def note(chunk: Any, seen: Seen) -> None:
    seen.chunks += 1
    seen.usage = chunk.usage.model_dump() if chunk.usage else seen.usage
    for choice in chunk.choices or ():
        seen.finish = choice.finish_reason or seen.finish
        seen.text += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            known = seen.calls.setdefault(call.index, ["", ""])
            known[0] += call.function.name or ""
            known[1] += call.function.arguments or ""


def helper(client: OpenAI, model: str, body: dict[str, Any], seen: Seen) -> None:
    messages, rest = split(body)
    with client.chat.completions.stream(model=model, messages=messages, extra_body=rest) as stream:
        for _ in stream:
            seen.chunks += 1
        whole(stream.get_final_completion(), seen)


def embed(client: OpenAI, model: str, body: dict[str, Any], seen: Seen) -> None:
    rest = {name: value for name, value in body.items() if name != "input"}
    answer = client.embeddings.create(model=model, input=body["input"], extra_body=rest)
    seen.usage = answer.usage.model_dump() if answer.usage is not None else None  # type: ignore[redundant-expr] # it may
    seen.vectors = [entry.embedding for entry in answer.data]


WAYS = {"plain": plain, "raw": raw, "helper": helper, "embed": embed}


def one(client: OpenAI, call: dict[str, Any]) -> dict[str, Any]:
    seen, failed = Seen(), None
    try:
        WAYS[call["way"]](client, call["model"], call["body"], seen)
    except Exception as error:  # noqa: BLE001 - whatever comes out of the client is the finding
        failed = error
    return seen.as_json(failed)


def main() -> None:
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    with OpenAI(max_retries=0, timeout=TIMEOUT_S) as client, ThreadPoolExecutor(PARALLEL) as pool:
        json.dump(list(pool.map(lambda call: one(client, call), json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
