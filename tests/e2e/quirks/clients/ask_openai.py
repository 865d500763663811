"""The `openai` client for Python, 2.x or 3.x, on the rows."""

from __future__ import annotations

from functools import partial
from typing import Any

from calls import TIMEOUT_S, Asked, Seen, make_all
from openai import OpenAI


def split(body: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The messages, and all the rest as it goes into the request."""
    return body["messages"], {name: value for name, value in body.items() if name != "messages"}


def plain(client: OpenAI, call: Asked, seen: Seen) -> None:
    messages, rest = split(call["body"])
    whole(client.chat.completions.create(model=call["model"], messages=messages, extra_body=rest), seen)


def whole(answer: Any, seen: Seen) -> None:
    seen.usage = answer.usage and answer.usage.model_dump()
    for choice in answer.choices or ():
        message = choice.message
        seen.role, seen.finish = message.role, choice.finish_reason
        seen.text += message.content or ""
        for call in message.tool_calls or ():
            seen.calls[len(seen.calls)] = [call.function.name, call.function.arguments]


def raw(client: OpenAI, call: Asked, seen: Seen) -> None:
    """As people write the loop; tool calls by their index.

    The stream is closed in any case: one that an exception leaves behind is closed by the garbage collector, which
    may run while the same thread holds the lock of httpcore's pool, and then waits for that lock for ever.
    """
    messages, rest = split(call["body"])
    with client.chat.completions.create(model=call["model"], messages=messages, stream=True, extra_body=rest) as stream:
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


def helper(client: OpenAI, call: Asked, seen: Seen) -> None:
    messages, rest = split(call["body"])
    with client.chat.completions.stream(model=call["model"], messages=messages, extra_body=rest) as stream:
        for _ in stream:
            seen.chunks += 1
        whole(stream.get_final_completion(), seen)


def embed(client: OpenAI, call: Asked, seen: Seen) -> None:
    rest = {name: value for name, value in call["body"].items() if name != "input"}
    answer: Any = client.embeddings.create(model=call["model"], input=call["body"]["input"], extra_body=rest)
    seen.usage = answer.usage and answer.usage.model_dump()
    seen.vectors = [entry.embedding for entry in answer.data]


WAYS = {"plain": plain, "raw": raw, "helper": helper, "embed": embed}


def repeating(way: Any, client: OpenAI, call: Asked, seen: Seen) -> None:
    way(client.with_options(max_retries=call["repeats"]), call, seen)


def main() -> None:
    with OpenAI(timeout=TIMEOUT_S) as client:
        make_all({name: partial(repeating, way, client) for name, way in WAYS.items()})


if __name__ == "__main__":
    main()
