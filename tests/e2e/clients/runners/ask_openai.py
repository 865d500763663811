"""The `openai` client for Python, 1.x to 3.x, with the body of each scenario as it is.

What it receives is validated against the types of the SDK, strictly. `repeats` is the most retries of a call.
"""

from functools import partial
from typing import Any

from harness import AT_ONCE, TIMEOUT_S, Handler, Result, Scenario, run_all
from openai import OpenAI
from reply_validation import ReplyRecorder

recorder = ReplyRecorder()


def plain(client: OpenAI, request: Any, result: Result) -> None:
    record_completion(client.chat.completions.create(**request), result)


def record_completion(answer: Any, result: Result) -> None:
    result.total = answer.usage and answer.usage.total_tokens
    for choice in answer.choices or ():
        message = choice.message
        result.role, result.finish = message.role, choice.finish_reason
        result.text = (result.text or "") + (message.content or "")
        for call in message.tool_calls or ():
            result.add_call(call.id, call.function.name, call.function.arguments)


def raw(client: OpenAI, request: Any, result: Result) -> None:
    """Read a stream as usual client code does, and collect tool calls by their index.

    Close the stream in any case. Otherwise the garbage collector closes it after an exception. It may run while the
    same thread holds the lock of httpcore's pool, and then waits for that lock forever.
    """
    calls: dict[int, list[Any]] = {}
    with client.chat.completions.create(**request, stream=True) as stream:
        for chunk in stream:
            result.total = chunk.usage.total_tokens if chunk.usage else result.total
            for choice in chunk.choices or ():
                result.finish = choice.finish_reason or result.finish
                result.text = (result.text or "") + (choice.delta.content or "")
                for call in choice.delta.tool_calls or ():
                    known = calls.setdefault(call.index, [call.id, "", ""])
                    known[1] += call.function.name or ""
                    known[2] += call.function.arguments or ""
    for one in calls.values():
        result.add_call(*one)


def helper(client: OpenAI, request: Any, result: Result) -> None:
    with client.chat.completions.stream(**request) as stream:
        for _ in stream:
            pass
        record_completion(stream.get_final_completion(), result)


def embed(client: OpenAI, request: Any, result: Result) -> None:
    answer: Any = client.embeddings.create(**request)
    result.total = answer.usage and answer.usage.total_tokens
    result.vectors = [entry.embedding for entry in answer.data]


def respond(client: OpenAI, request: Any, result: Result) -> None:
    result.text = client.responses.create(**request).output_text


def respond_in_stream(client: OpenAI, request: Any, result: Result) -> None:
    events = client.responses.create(**request, stream=True)
    result.text = "".join(event.delta for event in events if event.type == "response.output_text.delta")


HANDLERS = {
    "plain": plain,
    "raw": raw,
    "helper": helper,
    "embed": embed,
    "respond": respond,
    "respond_in_stream": respond_in_stream,
}


def validated(handler: Any, client: OpenAI, scenario: Scenario, result: Result) -> None:
    known = {name: scenario["body"][name] for name in ("messages", "input") if name in scenario["body"]}
    others = {name: value for name, value in scenario["body"].items() if name not in known}
    request = {"model": scenario["model"], **known, "extra_body": others}
    try:
        handler(client.with_options(max_retries=scenario["repeats"]), request, result)
    finally:
        recorder.validate(result)


def main() -> None:
    with OpenAI(timeout=TIMEOUT_S, http_client=recorder.client) as client:
        handlers: dict[str, Handler] = {name: partial(validated, handler, client) for name, handler in HANDLERS.items()}
        run_all(handlers, AT_ONCE)


if __name__ == "__main__":
    main()
