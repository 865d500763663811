"""OpenAI's Agents SDK over chat completions, its tool served by a real MCP server over stdio."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agents import Agent, ModelSettings, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
from agents.models.openai_responses import OpenAIResponsesModel
from harness import TIMEOUT_S, Result, Scenario, read_scenarios, recorded, write_results
from openai import AsyncOpenAI

SERVER = {"command": sys.executable, "args": [str(Path(__file__).parent / "mcp_add.py")]}


def agent_of(scenario: Scenario, client: AsyncOpenAI, servers: list[Any]) -> Any:
    settings = ModelSettings(
        temperature=scenario["temperature"],
        max_tokens=scenario["max_tokens"],
        parallel_tool_calls=True if servers else None,
        include_usage=True,
        extra_body={"images": [scenario["picture"]]} if scenario["kind"] == "extra_parameter" else None,
    )
    kind_of_model = OpenAIResponsesModel if scenario["kind"] == "responses" else OpenAIChatCompletionsModel
    return Agent(
        name="adder",
        model=kind_of_model(scenario["model"], client),
        model_settings=settings,
        mcp_servers=servers,
        tool_use_behavior="stop_on_first_tool" if scenario["kind"] == "tools" else "run_llm_again",
    )


def first_messages(scenario: Scenario) -> list[Any]:
    parts = [{"type": "input_text", "text": scenario["question"]}]
    if scenario["kind"] == "picture":
        parts.append({"type": "input_image", "image_url": scenario["picture"], "detail": "auto"})
    return [{"role": "user", "content": parts}]


async def run_agent(scenario: Scenario, result: Result, servers: list[Any]) -> None:
    async with AsyncOpenAI(max_retries=0, timeout=TIMEOUT_S) as client:
        agent, turn_limit = agent_of(scenario, client, servers), scenario["rounds"] + 2
        if scenario["streams"]:
            completed = Runner.run_streamed(agent, first_messages(scenario), max_turns=turn_limit)
            async for _ in completed.stream_events():
                pass
        else:
            completed = await Runner.run(agent, first_messages(scenario), max_turns=turn_limit)
    for item in completed.new_items:
        if item.type == "tool_call_item":
            result.add_call(item.raw_item.call_id, item.raw_item.name, json.loads(item.raw_item.arguments))
    result.text = completed.final_output if scenario["kind"] != "tools" else None
    result.total = completed.raw_responses[-1].usage.total_tokens


async def main() -> None:
    """Run all scenarios with one MCP server, because its handshake is not measured."""
    results: list[Result] = []
    async with MCPServerStdio(params=SERVER, client_session_timeout_seconds=TIMEOUT_S) as server:
        for scenario in read_scenarios():
            with recorded() as result:
                await run_agent(scenario, result, [server] if scenario["kind"] in ("tools", "rounds") else [])
            results.append(result)
    write_results(results)


if __name__ == "__main__":
    set_tracing_disabled(True)
    asyncio.run(main())
