"""LlamaIndex's `OpenAILike` and `OpenAILikeEmbedding`; the rounds are played by its FunctionAgent."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from harness import TIMEOUT_S, Seen, Told, add, play
from llama_index.core.agent.workflow import FunctionAgent, ToolCall
from llama_index.core.base.llms.types import (
    ChatMessage,
    ImageBlock,
    MessageRole,
    TextBlock,
)
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

WHERE = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
adding = FunctionTool.from_defaults(add)


def model_of(told: Told) -> Any:
    stray = {"extra_body": {"images": [told["picture"]]}} if told["kind"] == "stray" else {}
    return OpenAILike(
        **WHERE,
        model=told["model"],
        temperature=told["temperature"],
        max_tokens=told["max_tokens"],
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        timeout=TIMEOUT_S,
        additional_kwargs=stray,
    )


def opening(told: Told) -> Any:
    picture = [ImageBlock(url=told["picture"])] if told["kind"] == "picture" else []
    return ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text=told["question"]), *picture])


def chat(told: Told, seen: Seen) -> None:
    model, messages = model_of(told), [opening(told)]
    if told["streams"]:
        *_, answer = model.stream_chat(messages)
    else:
        answer = model.chat(messages)
    seen.text = answer.message.content or None


def tools(told: Told, seen: Seen) -> None:
    model, asked = model_of(told), {"tools": [adding], "user_msg": opening(told), "allow_parallel_tool_calls": True}
    if told["streams"]:
        *_, answer = model.stream_chat_with_tools(**asked)
    else:
        answer = model.chat_with_tools(**asked)
    seen.text = answer.message.content or None
    for call in model.get_tool_calls_from_response(answer):
        seen.called(call.tool_id, call.tool_name, call.tool_kwargs)


def rounds(told: Told, seen: Seen) -> None:
    asyncio.run(played(told, seen))


async def played(told: Told, seen: Seen) -> None:
    agent = FunctionAgent(
        tools=[adding], llm=model_of(told), streaming=told["streams"], allow_parallel_tool_calls=True, timeout=60
    )
    handler = agent.run(told["question"], max_iterations=told["rounds"] + 2)
    async for event in handler.stream_events():
        if isinstance(event, ToolCall):
            seen.called(event.tool_id, event.tool_name, event.tool_kwargs)
    seen.text = (await handler).response.content


def embed(told: Told, seen: Seen) -> None:
    model = OpenAILikeEmbedding(
        **WHERE, model_name=told["model"], embed_batch_size=len(told["texts"]), max_retries=0, timeout=TIMEOUT_S
    )
    seen.vectors = model.get_text_embedding_batch(told["texts"])


WAYS = {"chat": chat, "tools": tools, "picture": chat, "stray": chat, "rounds": rounds}

if __name__ == "__main__":
    play({**WAYS, "embed": embed, "embed_many": embed})
