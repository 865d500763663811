"""A real client without a socket: what openai-python makes of the bytes of a stream or of a reply."""

from typing import Any

import httpx2
from openai import OpenAI, Stream, omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

CLIENT = OpenAI(api_key="none", base_url="http://127.0.0.1:1/v1")


def chunks_of(stream: bytes, cast_to: Any = ChatCompletionChunk) -> list[Any]:
    """Return the items of the iteration over the stream; raises the SDK's errors."""
    headers = {"content-type": "text/event-stream"}
    response = httpx2.Response(200, headers=headers, content=stream, request=httpx2.Request("POST", CLIENT.base_url))
    return list(Stream(cast_to=cast_to, response=response, client=CLIENT))


def helper_reads(stream: bytes) -> dict[str, Any]:
    """The completion that `client.chat.completions.stream()` accumulates, without what it adds to one."""
    state = ChatCompletionStreamState()
    for chunk in chunks_of(stream):
        state.handle_chunk(chunk)
    read: dict[str, Any] = state.current_completion_snapshot.to_dict()
    for choice in read["choices"]:
        choice["message"].pop("parsed", None)
        for call in choice["message"].get("tool_calls") or ():
            call.pop("index")
            call["function"].pop("parsed_arguments", None)
    return read


def strictly(reply: bytes) -> ChatCompletion:
    """`reply` by the SDK's own model, with nothing coerced and nothing missing."""
    return ChatCompletion.model_validate_json(reply, strict=True)


_RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def strict_events(stream: bytes) -> list[Any]:
    """The events of a response's stream, each by the SDK's own model, with nothing coerced and nothing missing; raises
    where an event has a name that is not its type."""
    events = []
    for block in stream.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        events.append(_RESPONSE_EVENT.validate_json(data.removeprefix(b"data: "), strict=True))
        assert name == b"event: " + events[-1].type.encode()
    return events


def response_helper_reads(stream: bytes) -> Any:
    """The response that `client.responses.stream()` gives in the end; raises what the SDK raises."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in chunks_of(stream, ResponseStreamEvent):
        state.handle_event(event)
    assert state._completed_response is not None  # the SDK has no public name for it
    return state._completed_response


def strictly_response(reply: bytes) -> Response:
    return Response.model_validate_json(reply, strict=True)
