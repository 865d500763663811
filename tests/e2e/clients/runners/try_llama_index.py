"""LlamaIndex's `OpenAILike` and `OpenAILikeEmbedding`; its FunctionAgent runs the tool calls."""

import asyncio
import os
from typing import Any

from harness import TIMEOUT_S, Result, Scenario, add, run_all
from llama_index.core.agent.workflow import FunctionAgent, ToolCall
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

ENDPOINT = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
add_tool = FunctionTool.from_defaults(add)


def model_of(scenario: Scenario) -> Any:
    extra = {"extra_body": {"images": [scenario["picture"]]}} if scenario["kind"] == "extra_parameter" else {}
    return OpenAILike(
        **ENDPOINT,
        model=scenario["model"],
        temperature=scenario["temperature"],
        max_tokens=scenario["max_tokens"],
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        timeout=TIMEOUT_S,
        additional_kwargs=extra,
    )


def first_message(scenario: Scenario) -> Any:
    picture = [ImageBlock(url=scenario["picture"])] if scenario["kind"] == "picture" else []
    return ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text=scenario["question"]), *picture])


def chat(scenario: Scenario, result: Result) -> None:
    model, messages = model_of(scenario), [first_message(scenario)]
    if scenario["streams"]:
        *_, answer = model.stream_chat(messages)
    else:
        answer = model.chat(messages)
    result.text = answer.message.content or None


def tools(scenario: Scenario, result: Result) -> None:
    model, parameters = (
        model_of(scenario),
        {"tools": [add_tool], "user_msg": first_message(scenario), "allow_parallel_tool_calls": True},
    )
    if scenario["streams"]:
        *_, answer = model.stream_chat_with_tools(**parameters)
    else:
        answer = model.chat_with_tools(**parameters)
    result.text = answer.message.content or None
    for call in model.get_tool_calls_from_response(answer):
        result.add_call(call.tool_id, call.tool_name, call.tool_kwargs)


def rounds(scenario: Scenario, result: Result) -> None:
    asyncio.run(run_agent(scenario, result))


async def run_agent(scenario: Scenario, result: Result) -> None:
    agent = FunctionAgent(
        tools=[add_tool],
        llm=model_of(scenario),
        streaming=scenario["streams"],
        allow_parallel_tool_calls=True,
        timeout=60,
    )
    handler = agent.run(scenario["question"], max_iterations=scenario["rounds"] + 2)
    async for event in handler.stream_events():
        if isinstance(event, ToolCall):
            result.add_call(event.tool_id, event.tool_name, event.tool_kwargs)
    result.text = (await handler).response.content


def embed(scenario: Scenario, result: Result) -> None:
    model = OpenAILikeEmbedding(
        **ENDPOINT,
        model_name=scenario["model"],
        embed_batch_size=len(scenario["texts"]),
        max_retries=0,
        timeout=TIMEOUT_S,
    )
    result.vectors = model.get_text_embedding_batch(scenario["texts"])


HANDLERS = {"chat": chat, "tools": tools, "picture": chat, "extra_parameter": chat, "rounds": rounds}

if __name__ == "__main__":
    run_all({**HANDLERS, "embed": embed, "embed_many": embed})
