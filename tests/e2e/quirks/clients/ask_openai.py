"""The `openai` client for Python, 2.x or 3.x, on the rows."""

from __future__ import annotations

from functools import partial
from typing import Any

from calls import TIMEOUT_S, Call, Result, run_all
from openai import OpenAI


def split(body: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the messages, and the other parameters, which are sent unchanged."""
    return body["messages"], {name: value for name, value in body.items() if name != "messages"}


def plain(client: OpenAI, call: Call, result: Result) -> None:
    messages, rest = split(call["body"])
    record_completion(client.chat.completions.create(model=call["model"], messages=messages, extra_body=rest), result)


def record_completion(answer: Any, result: Result) -> None:
    result.usage = answer.usage and answer.usage.model_dump()
    for choice in answer.choices or ():
        message = choice.message
        result.role, result.finish = message.role, choice.finish_reason
        result.text += message.content or ""
        for call in message.tool_calls or ():
            result.calls[len(result.calls)] = [call.function.name, call.function.arguments]


def raw(client: OpenAI, call: Call, result: Result) -> None:
    """Read a stream as usual client code does, and collect tool calls by their index.

    Close the stream in any case. Otherwise the garbage collector closes it after an exception. It may run while the
    same thread holds the lock of httpcore's pool, and then waits for that lock forever.
    """
    messages, rest = split(call["body"])
    with client.chat.completions.create(model=call["model"], messages=messages, stream=True, extra_body=rest) as stream:
        for chunk in stream:
            record_chunk(chunk, result)


def record_chunk(chunk: Any, result: Result) -> None:
    result.chunks += 1
    result.usage = chunk.usage.model_dump() if chunk.usage else result.usage
    for choice in chunk.choices or ():
        result.finish = choice.finish_reason or result.finish
        result.text += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            known = result.calls.setdefault(call.index, ["", ""])
            known[0] += call.function.name or ""
            known[1] += call.function.arguments or ""


def helper(client: OpenAI, call: Call, result: Result) -> None:
    messages, rest = split(call["body"])
    with client.chat.completions.stream(model=call["model"], messages=messages, extra_body=rest) as stream:
        for _ in stream:
            result.chunks += 1
        record_completion(stream.get_final_completion(), result)


def embed(client: OpenAI, call: Call, result: Result) -> None:
    rest = {name: value for name, value in call["body"].items() if name != "input"}
    answer: Any = client.embeddings.create(model=call["model"], input=call["body"]["input"], extra_body=rest)
    result.usage = answer.usage and answer.usage.model_dump()
    result.vectors = [entry.embedding for entry in answer.data]


HANDLERS = {"plain": plain, "raw": raw, "helper": helper, "embed": embed}


def repeating(handler: Any, client: OpenAI, call: Call, result: Result) -> None:
    handler(client.with_options(max_retries=call["repeats"]), call, result)


def main() -> None:
    with OpenAI(timeout=TIMEOUT_S) as client:
        run_all({name: partial(repeating, handler, client) for name, handler in HANDLERS.items()})


if __name__ == "__main__":
    main()
