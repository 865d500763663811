"""Load of openai-python without retries. Prints each failure, when each task has begun, and the number of requests."""

import asyncio
import json
import random
import sys

import openai


async def send_request(client: openai.AsyncOpenAI, streams: bool, events: int) -> None:
    if not streams:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].finish_reason == "stop"
        return
    stream = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    received = 0
    async for chunk in stream:
        received += bool(chunk.choices)
    assert received == events, f"a stream of {received} events"


async def main(port: int, concurrency: int, pause_s: float, events: int) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, over.set)
    requests = begun = 0

    async def run_task(client: openai.AsyncOpenAI, number: int) -> None:
        nonlocal requests, begun
        count = number
        while not over.is_set():
            requests += 1
            streams = count % 2 == 0
            try:
                await send_request(client, streams, events)
            except (openai.OpenAIError, AssertionError) as error:
                reason = f"{error!r} / {error.__cause__!r}"
                print(json.dumps({"failed": reason, "streams": streams}), flush=True)
            count += 1
            if count == number + 1:
                begun += 1
                if begun == concurrency:
                    print(json.dumps({"began": concurrency}), flush=True)
            await asyncio.sleep(random.random() * 2 * pause_s)

    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0, timeout=30) as client:
        await asyncio.gather(*(run_task(client, number) for number in range(concurrency)))
    print(json.dumps({"requests": requests}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
