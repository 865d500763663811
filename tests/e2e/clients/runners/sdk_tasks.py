"""Run tasks of two steps with a Python client of the Responses or the Messages API, and print each step as JSON.

The argument is the client, one of WAYS. The user shows a picture and asks; the model calls the tool, twice at once; the
user sends both results. All scenarios have the same question and the same picture, in base64.
"""

import asyncio
import json
import sys
from typing import Any

from harness import Result, Scenario, read_scenarios, run_all

TASK = read_scenarios()[0]
PICTURE = f"data:image/png;base64,{TASK['picture']}"
PARTS = [
    {"type": "input_text", "text": TASK["question"]},
    {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
Steps = list[dict[str, Any]]


def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def step(text: str, calls: Any, tokens: tuple[int, int]) -> dict[str, Any]:
    """`calls`: id, name and arguments of each."""
    return {"text": text, "calls": [[*call] for call in calls], "tokens": [*tokens]}


def by_openai(model: str, streams: bool, steps: Steps) -> None:
    import openai

    tool = {"type": "function", "name": "add", "parameters": SCHEMA, "strict": False}
    items: list[Any] = [{"role": "user", "content": PARTS}]
    with openai.OpenAI(max_retries=0) as client:
        while True:
            asked: Any = {"model": model, "input": items, "tools": [tool]}
            if streams:
                with client.responses.stream(**asked) as stream:
                    for _ in stream:
                        pass
                    answer: Any = stream.get_final_response()
            else:
                answer = client.responses.create(**asked)
            calls = [one for one in answer.output if one.type == "function_call"]
            named = [(one.call_id, one.name, json.loads(one.arguments)) for one in calls]
            steps.append(step(answer.output_text, named, (answer.usage.input_tokens, answer.usage.output_tokens)))
            if not calls:
                return
            items += [one.to_dict() for one in answer.output]
            items += [
                {"type": "function_call_output", "call_id": call_id, "output": str(add(**arguments))}
                for call_id, _, arguments in named
            ]


def by_anthropic(model: str, streams: bool, steps: Steps) -> None:
    import anthropic

    source = {"type": "base64", "media_type": "image/png", "data": TASK["picture"]}
    content: Any = [{"type": "text", "text": TASK["question"]}, {"type": "image", "source": source}]
    messages: list[Any] = [{"role": "user", "content": content}]
    asked: Any = {"model": model, "max_tokens": 64, "tools": [{"name": "add", "input_schema": SCHEMA}]}
    with anthropic.Anthropic(max_retries=0) as client:
        while True:
            if streams:
                with client.messages.stream(**asked, messages=messages) as stream:
                    answer: Any = stream.get_final_message()
            else:
                answer = client.messages.create(**asked, messages=messages)
            calls = [(one.id, one.name, one.input) for one in answer.content if one.type == "tool_use"]
            text = "".join(one.text for one in answer.content if one.type == "text")
            steps.append(step(text, calls, (answer.usage.input_tokens, answer.usage.output_tokens)))
            if not calls:
                return
            results = [
                {"type": "tool_result", "tool_use_id": key, "content": str(add(**arguments))}
                for key, _, arguments in calls
            ]
            messages.append({"role": "assistant", "content": [one.to_dict() for one in answer.content]})
            messages.append({"role": "user", "content": results})


def by_agents(model: str, streams: bool, steps: Steps) -> None:
    import openai
    from agents import Agent, ItemHelpers, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled

    set_tracing_disabled(disabled=True)

    async def run() -> Any:
        served = OpenAIResponsesModel(model=model, openai_client=openai.AsyncOpenAI(max_retries=0))
        agent = Agent(name="a", model=served, tools=[function_tool(add)])
        question: Any = [{"role": "user", "content": PARTS}]
        if not streams:
            return await Runner.run(agent, question)
        result = Runner.run_streamed(agent, question)
        async for _ in result.stream_events():
            pass
        return result

    for answer in asyncio.run(run()).raw_responses:
        calls = [one for one in answer.output if one.type == "function_call"]
        named = [(one.call_id, one.name, json.loads(one.arguments)) for one in calls]
        text = "".join(ItemHelpers.extract_last_text(one) or "" for one in answer.output)
        steps.append(step(text, named, (answer.usage.input_tokens, answer.usage.output_tokens)))


def by_langchain(made: Any, streams: bool, steps: Steps) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    picture = {"type": "image", "base64": TASK["picture"], "mime_type": "image/png"}
    messages: list[Any] = [HumanMessage([{"type": "text", "text": TASK["question"]}, picture])]
    model = made.bind_tools([tool(add)])
    while True:
        if streams:
            first, *others = model.stream(messages)
            answer = sum(others, first)
        else:
            answer = model.invoke(messages)
        calls = [(one["id"], one["name"], one["args"]) for one in answer.tool_calls]
        counted = answer.usage_metadata
        steps.append(step(str(answer.text), calls, (counted["input_tokens"], counted["output_tokens"])))
        if not calls:
            return
        messages.append(answer)
        messages += [ToolMessage(str(add(**arguments)), tool_call_id=call_id) for call_id, _, arguments in calls]


def by_langchain_openai(model: str, streams: bool, steps: Steps) -> None:
    from langchain_openai import ChatOpenAI

    by_langchain(ChatOpenAI(model=model, use_responses_api=True, max_retries=0), streams, steps)


def by_langchain_anthropic(model: str, streams: bool, steps: Steps) -> None:
    from langchain_anthropic import ChatAnthropic

    by_langchain(ChatAnthropic(model=model, max_tokens=64, max_retries=0), streams, steps)


WAYS = {
    "openai": by_openai,
    "anthropic": by_anthropic,
    "openai-agents": by_agents,
    "langchain-openai": by_langchain_openai,
    "langchain-anthropic": by_langchain_anthropic,
}


def run(scenario: Scenario, result: Result) -> None:
    WAYS[sys.argv[1]](scenario["model"], scenario["streams"], result.steps)


if __name__ == "__main__":
    run_all({"task": run})
