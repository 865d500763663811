"""LangChain's `ChatOpenAI` and `OpenAIEmbeddings`, with its own messages and tools."""

from typing import Any

from chat_request import content
from harness import TIMEOUT_S, Result, Scenario, add, run_all
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def model_of(scenario: Scenario) -> Any:
    model = ChatOpenAI(
        model=scenario["model"],
        temperature=scenario["temperature"],
        max_tokens=scenario["max_tokens"],
        max_retries=0,
        timeout=TIMEOUT_S,
        stream_usage=True,
        use_responses_api=scenario["kind"] == "responses",
        extra_body={"images": [scenario["picture"]]} if scenario["kind"] == "extra_parameter" else None,
    )
    return model.bind_tools([tool(add)]) if scenario["kind"] in ("tools", "rounds") else model


def first_messages(scenario: Scenario) -> list[Any]:
    return [HumanMessage(content(scenario))]


def chat_once(scenario: Scenario, model: Any, messages: list[Any], result: Result) -> Any:
    if scenario["streams"]:
        answer = None
        for chunk in model.stream(messages):
            answer = chunk if answer is None else answer + chunk
        assert answer is not None, "no chunk"
    else:
        answer = model.invoke(messages)
    result.text, result.finish = answer.text or None, answer.response_metadata.get("finish_reason")
    result.total = answer.usage_metadata and answer.usage_metadata["total_tokens"]
    for call in answer.tool_calls:
        result.add_call(call["id"], call["name"], call["args"])
    return answer


def chat(scenario: Scenario, result: Result) -> None:
    chat_once(scenario, model_of(scenario), first_messages(scenario), result)


def rounds(scenario: Scenario, result: Result) -> None:
    model, messages = model_of(scenario), first_messages(scenario)
    for _ in range(scenario["rounds"] + 1):
        answer = chat_once(scenario, model, messages, result)
        if not answer.tool_calls:
            return
        messages.append(answer)
        messages += [ToolMessage(str(add(**call["args"])), tool_call_id=call["id"]) for call in answer.tool_calls]


def embed(scenario: Scenario, result: Result) -> None:
    model = OpenAIEmbeddings(
        model=scenario["model"],
        max_retries=0,
        timeout=TIMEOUT_S,
        check_embedding_ctx_length=False,  # True sends token ids and downloads a tokenizer
    )
    result.vectors = model.embed_documents(scenario["texts"])


HANDLERS = {"chat": chat, "tools": chat, "picture": chat, "extra_parameter": chat, "responses": chat, "rounds": rounds}

if __name__ == "__main__":
    run_all({**HANDLERS, "embed": embed, "embed_many": embed})
