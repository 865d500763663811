"""LangChain's `ChatOpenAI` and `OpenAIEmbeddings` on the rows: input and output as in `ask_openai.py`.

`raw` is `.stream()`. `helper` is `.invoke()` of a model with `streaming=True`.
"""

from __future__ import annotations

import json
from typing import Any

from calls import TIMEOUT_S, Call, Result, run_all
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

NATIVE_PARAMETERS = ("tools",)
"""Parameters that LangChain accepts itself. All others are sent unchanged as `extra_body`."""


def chat(call: Call, *, streaming: bool) -> Any:
    extra = {name: value for name, value in call["body"].items() if name not in NATIVE_PARAMETERS}
    model = ChatOpenAI(
        model=call["model"],
        max_retries=call["repeats"],
        timeout=TIMEOUT_S,
        streaming=streaming,
        stream_usage="stream_options" in call["body"],
        use_responses_api=False,
        extra_body=extra,  # the row's messages: LangChain's conversion is not measured
    )
    return model.bind(tools=call["body"]["tools"]) if "tools" in call["body"] else model


def record_message(message: Any, result: Result) -> None:
    used = message.usage_metadata
    result.usage = used and {
        "prompt_tokens": used["input_tokens"],
        "completion_tokens": used["output_tokens"],
        "total_tokens": used["total_tokens"],
    }
    result.text = message.text if isinstance(message.text, str) else message.text()
    result.finish = message.response_metadata.get("finish_reason")
    result.calls = {at: [call["name"], json.dumps(call["args"])] for at, call in enumerate(message.tool_calls)}


def plain(call: Call, result: Result) -> None:
    record_message(chat(call, streaming=False).invoke("What colour is the sky?"), result)


def raw(call: Call, result: Result) -> None:
    gathered = None
    for chunk in chat(call, streaming=True).stream("What colour is the sky?"):
        result.chunks += 1
        result.text += chunk.text if isinstance(chunk.text, str) else chunk.text()
        gathered = chunk if gathered is None else gathered + chunk
    if gathered is not None:
        record_message(gathered, result)


def helper(call: Call, result: Result) -> None:
    record_message(chat(call, streaming=True).invoke("What colour is the sky?"), result)


def embed(call: Call, result: Result) -> None:
    rest = {name: value for name, value in call["body"].items() if name != "input"}
    model = OpenAIEmbeddings(
        model=call["model"],
        max_retries=0,
        timeout=TIMEOUT_S,
        check_embedding_ctx_length=False,  # True sends token ids and downloads a tokenizer
        model_kwargs={"extra_body": rest},
    )
    result.vectors = model.embed_documents(call["body"]["input"])


HANDLERS = {"plain": plain, "raw": raw, "helper": helper, "embed": embed}


if __name__ == "__main__":
    run_all(HANDLERS)
