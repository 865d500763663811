"""Run the real `openai` client for Python, configured with OPENAI_BASE_URL and OPENAI_API_KEY only.

Each command prints one JSON object:

    openai_python.py chat SECONDS WORKERS    streamed chats without pauses from WORKERS tasks
    openai_python.py one_of_each             one call of each kind, and an error
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from openai import APIStatusError, AsyncOpenAI, OpenAI, OpenAIError

CHAT_MODEL, EMBEDDING_MODEL = "tiny-chat", "tiny-ends"
ANSWER_TOKENS = (16, 64, 256, 1024)
"""The lengths of the replies, in rotation."""
UNTIL_THE_LIMIT = {"ignore_eos": True}
"""An option of llama.cpp: each reply has exactly the requested number of tokens, so a missing one is visible."""
TOO_LONG = "word " * 10_000
TEXTS = ["amber", "basalt", "topaz"]


@dataclass(slots=True)
class Report:
    finished: int = 0
    answer_tokens: int = 0
    failures: list[str] = field(default_factory=list)


async def stream_one(client: AsyncOpenAI, tokens: int) -> None:
    """Read one streamed chat; raise ValueError if it is incomplete."""
    text, finish, usage = "", None, None
    stream = await client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Let the words come."}],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=UNTIL_THE_LIMIT,
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    counted = usage.completion_tokens if usage else None
    if not text or finish != "length" or counted != tokens:
        raise ValueError(f"{len(text)} characters, finish_reason {finish}, {counted} tokens of {tokens}")


async def work(client: AsyncOpenAI, end: float, report: Report) -> None:
    number = 0
    while time.monotonic() < end:
        tokens = ANSWER_TOKENS[number % len(ANSWER_TOKENS)]
        number += 1
        try:
            await stream_one(client, tokens)
        except (OpenAIError, ValueError) as error:
            report.failures.append(f"{type(error).__name__}: {error}")
        else:
            report.finished += 1
            report.answer_tokens += tokens


async def chat(seconds: float, workers: int) -> dict[str, Any]:
    report = Report()
    async with AsyncOpenAI(max_retries=0) as client:
        end = time.monotonic() + seconds
        await asyncio.gather(*(work(client, end, report) for _ in range(workers)))
    return asdict(report)


def plain(client: OpenAI) -> dict[str, Any]:
    answer = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=12,
        extra_body=UNTIL_THE_LIMIT,
    )
    return answer.model_dump()


def streamed(client: OpenAI) -> list[dict[str, Any]]:
    stream = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=UNTIL_THE_LIMIT,
    )
    return [chunk.model_dump() for chunk in stream]


def error_of_too_long(client: OpenAI, stream: bool) -> dict[str, Any]:
    """Return the error that the client raises for a prompt longer than llama.cpp's context."""
    try:
        client.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": TOO_LONG}], max_tokens=4, stream=stream
        )
    except APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "error": error.body}
    return {"class": None}


def one_of_each() -> dict[str, Any]:
    with OpenAI(max_retries=0) as client:
        return {
            "plain": plain(client),
            "streamed": streamed(client),
            "refused": error_of_too_long(client, stream=False),
            "refused_stream": error_of_too_long(client, stream=True),
            "models": [model.id for model in client.models.list()],
            "vectors": [one.embedding for one in client.embeddings.create(model=EMBEDDING_MODEL, input=TEXTS).data],
        }


def main(command: str, *arguments: str) -> None:
    if command == "chat":
        result = asyncio.run(chat(float(arguments[0]), int(arguments[1])))
    elif command == "one_of_each":
        result = one_of_each()
    else:
        sys.exit(__doc__)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
