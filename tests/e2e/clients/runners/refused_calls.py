"""Make calls at once with a Python SDK and its own retries, and print what each one ends with as JSON.

The arguments are `METHOD:MODEL`. An outcome has the name, status, code and text of the exception, or the text of the
answer. The base URL and the key come from the environment.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CALLS = sys.argv[1:]
ASKED: Any = [{"role": "user", "content": "Hi"}]


def openai_methods() -> dict[str, Any]:
    import openai

    client = openai.OpenAI()

    def streamed_chat(model: str) -> str:
        chunks = client.chat.completions.create(model=model, messages=ASKED, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def streamed_response(model: str) -> str:
        events = client.responses.create(model=model, input="Hi", stream=True)
        return "".join(event.delta for event in events if event.type == "response.output_text.delta")

    return {
        "chat": lambda model: client.chat.completions.create(model=model, messages=ASKED).choices[0].message.content,
        "chat_stream": streamed_chat,
        "responses": lambda model: client.responses.create(model=model, input="Hi").output_text,
        "responses_stream": streamed_response,
        "embeddings": lambda model: str(client.embeddings.create(model=model, input="Hi").data[0].embedding),
    }


def anthropic_methods() -> dict[str, Any]:
    import anthropic

    client = anthropic.Anthropic()

    def streamed(model: str) -> str:
        with client.messages.stream(model=model, messages=ASKED, max_tokens=64) as stream:
            return "".join(stream.text_stream)

    return {
        "messages": lambda model: client.messages.create(model=model, messages=ASKED, max_tokens=64).content[0].text,
        "messages_stream": streamed,
    }


METHODS = anthropic_methods() if CALLS[0].startswith("messages") else openai_methods()


def outcome(call: str) -> dict[str, Any]:
    method, model = call.split(":")
    try:
        return {"text": METHODS[method](model)}
    except Exception as error:  # noqa: BLE001 - every exception of the client is an outcome
        body = getattr(error, "body", None)
        inner = body.get("error", body) if isinstance(body, dict) else {}
        name, status = type(error).__name__, getattr(error, "status_code", None)
        return {"name": name, "status": status, "code": inner.get("code"), "text": str(error)}


with ThreadPoolExecutor(len(CALLS)) as pool:
    json.dump(dict(zip(CALLS, pool.map(outcome, CALLS), strict=True)), sys.stdout)
