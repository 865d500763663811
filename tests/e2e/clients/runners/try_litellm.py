"""LiteLLM as a client: its `openai/` provider, and its rerank in the format of Jina."""

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise the import downloads a price list

import litellm
from chat_request import extras, first_messages, tool_message
from harness import TIMEOUT_S, Result, Scenario, run_all

ENDPOINT = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
litellm.suppress_debug_info = True


def members(scenario: Scenario) -> dict[str, Any]:
    made = {name: scenario[name] for name in ("temperature", "max_tokens")}
    made |= ENDPOINT | {
        "model": f"openai/{scenario['model']}",
        "timeout": TIMEOUT_S,
        "num_retries": 0,
        "max_retries": 0,
    }
    return made | extras(scenario)


def chat_once(scenario: Scenario, messages: list[Any], result: Result) -> Any:
    if scenario["streams"]:
        stream = litellm.completion(
            messages=messages, stream=True, stream_options={"include_usage": True}, **members(scenario)
        )
        answer = litellm.stream_chunk_builder(list(stream), messages=messages)
    else:
        answer = litellm.completion(messages=messages, **members(scenario))
    (choice,) = answer.choices
    result.text, result.finish = choice.message.content or None, choice.finish_reason
    result.total = answer.usage.total_tokens
    for call in choice.message.tool_calls or ():
        result.add_call(call.id, call.function.name, json.loads(call.function.arguments))
    return choice.message


def chat(scenario: Scenario, result: Result) -> None:
    chat_once(scenario, first_messages(scenario), result)


def rounds(scenario: Scenario, result: Result) -> None:
    messages = first_messages(scenario)
    for _ in range(scenario["rounds"] + 1):
        message = chat_once(scenario, messages, result)
        if not message.tool_calls:
            return
        messages.append(message)
        messages += [tool_message(call.id, call.function.arguments) for call in message.tool_calls]


def embed(scenario: Scenario, result: Result) -> None:
    answer = litellm.embedding(
        f"openai/{scenario['model']}", scenario["texts"], timeout=TIMEOUT_S, max_retries=0, **ENDPOINT
    )
    result.vectors = [entry["embedding"] for entry in answer.data]


def rerank(scenario: Scenario, result: Result) -> None:
    parameters = {
        "query": scenario["query"],
        "documents": scenario["documents"],
        "timeout": TIMEOUT_S,
        "max_retries": 0,
    }
    answer = litellm.rerank(f"jina_ai/{scenario['model']}", **parameters, **ENDPOINT)
    result.ranks = [[entry["index"], entry["relevance_score"]] for entry in answer.results]


HANDLERS = {"chat": chat, "tools": chat, "picture": chat, "extra_parameter": chat, "rounds": rounds}

if __name__ == "__main__":
    run_all({**HANDLERS, "embed": embed, "embed_many": embed, "rerank": rerank})
