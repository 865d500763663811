"""LiteLLM as a client: its `openai/` provider, and its rerank by the shape of Jina."""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices when it is imported

import litellm
from chat_request import extras, opening, result
from harness import TIMEOUT_S, Seen, Told, play

WHERE = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
litellm.suppress_debug_info = True


def members(told: Told) -> dict[str, Any]:
    made = {name: told[name] for name in ("temperature", "max_tokens")}
    made |= WHERE | {"model": f"openai/{told['model']}", "timeout": TIMEOUT_S, "num_retries": 0, "max_retries": 0}
    return made | extras(told)


def once(told: Told, messages: list[Any], seen: Seen) -> Any:
    if told["streams"]:
        stream = litellm.completion(
            messages=messages, stream=True, stream_options={"include_usage": True}, **members(told)
        )
        answer = litellm.stream_chunk_builder(list(stream), messages=messages)
    else:
        answer = litellm.completion(messages=messages, **members(told))
    (choice,) = answer.choices
    seen.text, seen.finish = choice.message.content or None, choice.finish_reason
    seen.total = answer.usage.total_tokens
    for call in choice.message.tool_calls or ():
        seen.called(call.id, call.function.name, json.loads(call.function.arguments))
    return choice.message


def chat(told: Told, seen: Seen) -> None:
    once(told, opening(told), seen)


def rounds(told: Told, seen: Seen) -> None:
    messages = opening(told)
    for _ in range(told["rounds"] + 1):
        message = once(told, messages, seen)
        if not message.tool_calls:
            return
        messages.append(message)
        messages += [result(call.id, call.function.arguments) for call in message.tool_calls]


def embed(told: Told, seen: Seen) -> None:
    answer = litellm.embedding(f"openai/{told['model']}", told["texts"], timeout=TIMEOUT_S, max_retries=0, **WHERE)
    seen.vectors = [entry["embedding"] for entry in answer.data]


def rerank(told: Told, seen: Seen) -> None:
    asked = {"query": told["query"], "documents": told["documents"], "timeout": TIMEOUT_S, "max_retries": 0}
    answer = litellm.rerank(f"jina_ai/{told['model']}", **asked, **WHERE)
    seen.ranks = [[entry["index"], entry["relevance_score"]] for entry in answer.results]


WAYS = {"chat": chat, "tools": chat, "picture": chat, "stray": chat, "rounds": rounds}

if __name__ == "__main__":
    play({**WAYS, "embed": embed, "embed_many": embed, "rerank": rerank})
