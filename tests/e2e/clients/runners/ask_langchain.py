"""LangChain's `ChatOpenAI` and `OpenAIEmbeddings` with the scenarios of `ask_openai.py`.

`raw` is `.stream()`. `helper` is `.invoke()` of a model with `streaming=True`.
"""

import json
from typing import Any

from harness import AT_ONCE, TIMEOUT_S, Result, Scenario, run_all
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

NATIVE_PARAMETERS = ("tools",)
"""Parameters that LangChain accepts itself. All others are sent unchanged as `extra_body`."""


def chat(scenario: Scenario, *, streaming: bool) -> Any:
    extra = {name: value for name, value in scenario["body"].items() if name not in NATIVE_PARAMETERS}
    model = ChatOpenAI(
        model=scenario["model"],
        max_retries=scenario["repeats"],
        timeout=TIMEOUT_S,
        streaming=streaming,
        stream_usage="stream_options" in scenario["body"],
        use_responses_api=False,
        extra_body=extra,  # the row's messages: LangChain's conversion is not measured
    )
    return model.bind(tools=scenario["body"]["tools"]) if "tools" in scenario["body"] else model


def record_message(message: Any, result: Result) -> None:
    result.total = message.usage_metadata and message.usage_metadata["total_tokens"]
    result.text = message.text if isinstance(message.text, str) else message.text()
    result.finish = message.response_metadata.get("finish_reason")
    for call in message.tool_calls:
        result.add_call(call["id"], call["name"], json.dumps(call["args"]))


def plain(scenario: Scenario, result: Result) -> None:
    record_message(chat(scenario, streaming=False).invoke("What colour is the sky?"), result)


def raw(scenario: Scenario, result: Result) -> None:
    gathered = None
    for chunk in chat(scenario, streaming=True).stream("What colour is the sky?"):
        gathered = chunk if gathered is None else gathered + chunk
    if gathered is not None:
        record_message(gathered, result)


def helper(scenario: Scenario, result: Result) -> None:
    record_message(chat(scenario, streaming=True).invoke("What colour is the sky?"), result)


def embed(scenario: Scenario, result: Result) -> None:
    rest = {name: value for name, value in scenario["body"].items() if name != "input"}
    model = OpenAIEmbeddings(
        model=scenario["model"],
        max_retries=0,
        timeout=TIMEOUT_S,
        check_embedding_ctx_length=False,  # True sends token ids and downloads a tokenizer
        model_kwargs={"extra_body": rest},
    )
    result.vectors = model.embed_documents(scenario["body"]["input"])


if __name__ == "__main__":
    run_all({"plain": plain, "raw": raw, "helper": helper, "embed": embed}, AT_ONCE)
