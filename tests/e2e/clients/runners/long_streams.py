"""The `openai` client for Python: streamed chats without pauses from several tasks, for some seconds."""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

from harness import read_scenarios
from openai import AsyncOpenAI, OpenAIError

ANSWER_TOKENS = (16, 64, 256, 1024)
"""The lengths of the replies, in rotation."""


@dataclass(slots=True)
class Report:
    finished: int = 0
    answer_tokens: int = 0
    failures: list[str] = field(default_factory=list)


async def stream_one(client: AsyncOpenAI, tokens: int) -> None:
    """Read one streamed chat; raise ValueError if it is incomplete."""
    text, finish, usage = "", None, None
    stream = await client.chat.completions.create(
        model="tiny-chat",
        messages=[{"role": "user", "content": "Let the words come."}],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},  # an option of llama.cpp: the reply has exactly the requested number of tokens
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


async def main(seconds: float, workers: int) -> None:
    report = Report()
    async with AsyncOpenAI(max_retries=0) as client:
        end = time.monotonic() + seconds
        await asyncio.gather(*(work(client, end, report) for _ in range(workers)))
    json.dump(asdict(report), sys.stdout)


if __name__ == "__main__":
    (given,) = read_scenarios()
    asyncio.run(main(**given))
