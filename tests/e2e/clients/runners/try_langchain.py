"""LangChain's `ChatOpenAI` and `OpenAIEmbeddings`, with its own messages and tools."""

from __future__ import annotations

from typing import Any

from chat_request import content
from harness import TIMEOUT_S, Seen, Told, add, play
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

adding = tool(add)


def model_of(told: Told) -> Any:
    model = ChatOpenAI(
        model=told["model"],
        temperature=told["temperature"],
        max_tokens=told["max_tokens"],
        max_retries=0,
        timeout=TIMEOUT_S,
        stream_usage=True,
        use_responses_api=told["kind"] == "responses",
        extra_body={"images": [told["picture"]]} if told["kind"] == "stray" else None,
    )
    return model.bind_tools([adding]) if told["kind"] in ("tools", "rounds") else model


def opening(told: Told) -> list[Any]:
    return [HumanMessage(content(told))]


def once(told: Told, model: Any, messages: list[Any], seen: Seen) -> Any:
    if told["streams"]:
        answer = None
        for chunk in model.stream(messages):
            answer = chunk if answer is None else answer + chunk
        assert answer is not None, "no chunk"
    else:
        answer = model.invoke(messages)
    seen.text, seen.finish = answer.text or None, answer.response_metadata.get("finish_reason")
    seen.total = answer.usage_metadata and answer.usage_metadata["total_tokens"]
    for call in answer.tool_calls:
        seen.called(call["id"], call["name"], call["args"])
    return answer


def chat(told: Told, seen: Seen) -> None:
    once(told, model_of(told), opening(told), seen)


def rounds(told: Told, seen: Seen) -> None:
    model, messages = model_of(told), opening(told)
    for _ in range(told["rounds"] + 1):
        answer = once(told, model, messages, seen)
        if not answer.tool_calls:
            return
        messages.append(answer)
        messages += [ToolMessage(str(add(**call["args"])), tool_call_id=call["id"]) for call in answer.tool_calls]


def embed(told: Told, seen: Seen) -> None:
    model = OpenAIEmbeddings(
        model=told["model"],
        max_retries=0,
        timeout=TIMEOUT_S,
        check_embedding_ctx_length=False,  # with it LangChain sends token ids, and wants the network for its tokenizer
    )
    seen.vectors = model.embed_documents(told["texts"])


WAYS = {"chat": chat, "tools": chat, "picture": chat, "stray": chat, "responses": chat, "rounds": rounds}

if __name__ == "__main__":
    play({**WAYS, "embed": embed, "embed_many": embed})
