"""A real client without a socket: what openai-python makes of the bytes of a stream or of a reply."""

from __future__ import annotations

from typing import Any

import httpx2
from openai import OpenAI, Stream
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

CLIENT = OpenAI(api_key="none", base_url="http://127.0.0.1:1/v1")


def chunks_of(stream: bytes, cast_to: Any = ChatCompletionChunk) -> list[Any]:
    """What iterating over the stream gives; raises what the SDK raises."""
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
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


def strictly_legacy(reply: bytes) -> Completion:
    return Completion.model_validate_json(reply, strict=True)
