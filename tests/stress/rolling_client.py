"""openai-python under load, without retries: prints each failure, then how many requests there were."""

from __future__ import annotations

import asyncio
import json
import random
import sys

import openai


async def once(client: openai.AsyncOpenAI, streams: bool, events: int) -> None:
    if not streams:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].finish_reason == "stop"
        return
    stream = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    seen = 0
    async for chunk in stream:
        seen += bool(chunk.choices)
    assert seen == events, f"a stream of {seen} events"


async def main(port: int, concurrency: int, pause_s: float, events: int) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, over.set)
    requests = 0

    async def ask_on(client: openai.AsyncOpenAI, number: int) -> None:
        nonlocal requests
        turn = number
        while not over.is_set():
            requests += 1
            streams = turn % 2 == 0
            try:
                await once(client, streams, events)
            except (openai.OpenAIError, AssertionError) as error:
                reason = f"{error!r} / {error.__cause__!r}"
                print(json.dumps({"failed": reason, "streams": streams}), flush=True)
            turn += 1
            await asyncio.sleep(random.random() * 2 * pause_s)

    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0, timeout=30) as client:
        await asyncio.gather(*(ask_on(client, number) for number in range(concurrency)))
    print(json.dumps({"requests": requests}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
