"""Print what a Python client makes of a stream of the Responses API: its events, its text and its error.

The argument is `create` or `stream` for `openai`: the plain iteration, or its helper. `agents` and `langchain` are
openai-agents and langchain-openai.
"""

from __future__ import annotations

import asyncio
import json
import sys

import openai

SEEN: list[str] = []


def by_create() -> str:
    text = ""
    for event in openai.OpenAI(max_retries=0).responses.create(model="m", input="Hi", stream=True):
        SEEN.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    return text


def by_stream() -> str:
    with openai.OpenAI(max_retries=0).responses.stream(model="m", input="Hi") as stream:
        SEEN.extend(event.type for event in stream)
        return stream.get_final_response().output_text


def by_agents() -> str:
    from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled

    set_tracing_disabled(disabled=True)

    async def run() -> str:
        model = OpenAIResponsesModel(model="m", openai_client=openai.AsyncOpenAI(max_retries=0))
        result = Runner.run_streamed(Agent(name="a", model=model), "Hi")
        SEEN.extend([event.type async for event in result.stream_events()])
        return str(result.final_output)

    return asyncio.run(run())


def by_langchain() -> str:
    from langchain_openai import ChatOpenAI

    return "".join(
        str(piece.text) for piece in ChatOpenAI(model="m", use_responses_api=True, max_retries=0).stream("Hi")
    )


WAYS = {"create": by_create, "stream": by_stream, "agents": by_agents, "langchain": by_langchain}
text, error = "", None
try:
    text = WAYS[sys.argv[1]]()
except (openai.OpenAIError, RuntimeError) as caught:
    error = {"name": type(caught).__name__, "code": getattr(caught, "code", None), "message": str(caught)}
json.dump({"seen": SEEN, "text": text, "error": error}, sys.stdout)
