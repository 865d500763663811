"""Anthropic's client for Python, with the body of each scenario as it is. `repeats` is the most retries of a call."""

import json
from functools import partial
from typing import Any

import anthropic
from anthropic.types import Message, RawMessageStreamEvent
from harness import AT_ONCE, Handler, Result, Scenario, run_all
from pydantic import TypeAdapter, ValidationError


def plain(client: anthropic.Anthropic, request: Any, result: Result) -> None:
    record_message(client.messages.create(**request), result)


def raw(client: anthropic.Anthropic, request: Any, result: Result) -> None:
    """Let the helper of the SDK build the message of a stream."""
    with client.messages.stream(**request) as stream:
        text = "".join(stream.text_stream)
        record_message(stream.get_final_message(), result)
    assert result.text == text


def record_message(message: Any, result: Result) -> None:
    result.answer = message.to_dict(mode="json")
    result.text = "".join(block.text for block in message.content if block.type == "text")


def valid(client: anthropic.Anthropic, request: Any, result: Result) -> None:
    """Record the differences of what was received from the types of the SDK, strictly."""
    with client.messages.with_streaming_response.create(**request) as answer:
        received = answer.read()
    documents, kind = [received], TypeAdapter[Any](Message)
    if request.get("stream"):
        events = [line.removeprefix(b"data:") for line in received.splitlines() if line.startswith(b"data:")]
        documents = [one for one in events if json.loads(one)["type"] != "ping"]
        kind = TypeAdapter(RawMessageStreamEvent)
    for one in documents:
        try:
            kind.validate_json(one, strict=True)
        except ValidationError as error:
            result.invalid.append(str(error))
    result.checked = len(documents)


def asked(handler: Any, client: anthropic.Anthropic, scenario: Scenario, result: Result) -> None:
    request = {"model": scenario["model"], "max_tokens": 1024, **scenario["body"]}
    handler(client.with_options(max_retries=scenario["repeats"]), request, result)


def main() -> None:
    with anthropic.Anthropic() as client:
        ways = {"plain": plain, "raw": raw, "valid": valid}
        handlers: dict[str, Handler] = {name: partial(asked, handler, client) for name, handler in ways.items()}
        run_all(handlers, AT_ONCE)


if __name__ == "__main__":
    main()
