"""OpenAI's Agents SDK over chat completions, its tool served by a real MCP server over stdio."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agents import Agent, ModelSettings, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from harness import TIMEOUT_S, Seen, Told, asked, tell, watched
from openai import AsyncOpenAI

SERVER = {"command": sys.executable, "args": [str(Path(__file__).parent / "mcp_add.py")]}


def agent_of(told: Told, client: AsyncOpenAI, servers: list[Any]) -> Any:
    settings = ModelSettings(
        temperature=told["temperature"],
        max_tokens=told["max_tokens"],
        parallel_tool_calls=True if servers else None,
        include_usage=True,
        extra_body={"images": [told["picture"]]} if told["kind"] == "stray" else None,
    )
    kind_of_model = OpenAIResponsesModel if told["kind"] == "responses" else OpenAIChatCompletionsModel
    return Agent(
        name="adder",
        model=kind_of_model(told["model"], client),
        model_settings=settings,
        mcp_servers=servers,
        tool_use_behavior="stop_on_first_tool" if told["kind"] == "tools" else "run_llm_again",
    )


def opening(told: Told) -> list[Any]:
    parts = [{"type": "input_text", "text": told["question"]}]
    if told["kind"] == "picture":
        parts.append({"type": "input_image", "image_url": told["picture"], "detail": "auto"})
    return [{"role": "user", "content": parts}]


async def played(told: Told, seen: Seen, servers: list[Any]) -> None:
    async with AsyncOpenAI(max_retries=0, timeout=TIMEOUT_S) as client:
        agent, turns = agent_of(told, client, servers), told["rounds"] + 2
        if told["streams"]:
            result = Runner.run_streamed(agent, opening(told), max_turns=turns)
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, opening(told), max_turns=turns)
    for item in result.new_items:
        if item.type == "tool_call_item":
            seen.called(item.raw_item.call_id, item.raw_item.name, json.loads(item.raw_item.arguments))
    seen.text = result.final_output if told["kind"] != "tools" else None
    seen.total = result.raw_responses[-1].usage.total_tokens


async def main() -> None:
    """One server for all cases: its handshake is not what is measured."""
    found: list[Seen] = []
    async with MCPServerStdio(params=SERVER, client_session_timeout_seconds=TIMEOUT_S) as server:
        for told in asked():
            with watched() as seen:
                await played(told, seen, [server] if told["kind"] in ("tools", "rounds") else [])
            found.append(seen)
    tell(found)


if __name__ == "__main__":
    set_tracing_disabled(True)
    asyncio.run(main())
