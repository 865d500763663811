"""Thousands of mutated requests: none makes gatepass fail, and after them it serves as before.

`GATEPASS_FUZZ_REQUESTS` sets how many (2,000 without it), `GATEPASS_FUZZ_SEED` which.
"""

import asyncio
import json
import os
import random
import re
from collections import Counter
from typing import Any

import pytest

from tests.fuzz.mutation import mutated as mutate
from tests.integration.answers import COMPLETION, EVENTS, VECTORS
from tests.integration.gateway import HELLO, descriptors, gateway
from tests.integration.raw import request, send_raw, status_of
from tests.integration.scripted import Scripted, Send, reply, stream
from tests.waiting import until

REQUESTS = int(os.environ.get("GATEPASS_FUZZ_REQUESTS", "2000"))
SEED = int(os.environ.get("GATEPASS_FUZZ_SEED", "4711"))
AT_ONCE = 50
FAILED = re.compile(rb"HTTP/1\.1 5(?!0[15] )")
"""RFC 9112 requires 501 for an unknown transfer coding and 505 for an unknown version."""
RECEIVE_S = 0.3

IMAGE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="
DOCUMENTS: tuple[dict[str, Any], ...] = (
    {**HELLO},
    {**HELLO, "stream": True, "n": 1, "stream_options": {"include_usage": True}},
    {**HELLO, "images": [IMAGE, {"image_url": {"url": IMAGE}}], "temperature": 0.5},
    {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "ü"}], "images": [IMAGE]}]},
    {"model": "e", "input": ["a", "ü😀"], "encoding_format": "float", "drop_params": True, "model_type": "x"},
    {"model": "m", "messages": [{"role": "tool", "tool_call_id": "c", "content": None}], "images": IMAGE},
)
BODIES = [json.dumps(document, ensure_ascii=False).encode() for document in DOCUMENTS]
CHUNKED = request(fields=[("transfer-encoding", "chunked"), ("content-type", "application/json")])
WHOLE = [
    *(request(body) for body in BODIES),
    request(BODIES[-1], target="/v1/embeddings"),
    request(target="/v1/models", method="GET"),
    request(target="/v1/models/a%2Fb?x=1", method="HEAD"),
    request(target="/metrics", method="GET"),
    request(BODIES[0], [("authorization", "Bearer abc"), ("x-request-id", "id-1"), ("expect", "100-continue")]),
    CHUNKED + b"%x\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(BODIES[0]), BODIES[0]),
    request(BODIES[0], [("upgrade", "websocket"), ("connection", "upgrade")]),
    request(BODIES[0], [("connection", "keep-alive")]) + request(target="/healthz", method="GET"),
    *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT h:1 HTTP/1.0\r\nContent-Length: -1\r\nHost: evil\r\n\r\n"),
]


def mutated(rng: random.Random) -> bytes:
    """A request that was good once: mutated as a whole, or in its body alone with the length made right."""
    if rng.random() < 0.6:
        return request(mutate(BODIES, rng), target=rng.choice(["/v1/chat/completions", "/v1/embeddings"]))
    return mutate(WHOLE, rng)


def answer_all(request):
    if request.target.endswith("/models"):
        return [Send(reply({"object": "list", "data": [{"id": "a/b"}]}))]
    if request.target.endswith("/embeddings"):
        count = max(1, len(inputs)) if isinstance(inputs := request.json().get("input"), list) else 1
        ids = isinstance(inputs, list) and inputs[:1] and type(inputs[0]) in (int, float)
        return [Send(reply(VECTORS | {"data": VECTORS["data"] * (1 if ids else count)}))]
    return [Send(stream(*EVENTS) if request.json().get("stream") else reply(COMPLETION))]


@pytest.mark.parametrize("part", range(4))
async def test_no_mutated_request_makes_gatepass_fail(part, monkeypatch):
    monkeypatch.setattr(
        "gatepass.server.process.IDLE_TIMEOUT_S", RECEIVE_S
    )  # a mutation may have lost its `connection: close`
    monkeypatch.setattr("gatepass.server.connection.RECEIVE_S", RECEIVE_S)
    rng = random.Random(SEED + part)
    statuses: Counter[int] = Counter()
    failed: list[tuple[bytes, bytes]] = []

    async def play(port: int, places: asyncio.Semaphore, data: bytes) -> None:
        async with places:
            cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(0, 2)))
            pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
            try:
                response = await send_raw(port, *pieces)
            except TimeoutError:
                failed.append((data, b"neither answered nor closed"))
                return
        statuses[status_of(response)] += 1
        if FAILED.search(response) is not None or (response and not response.startswith(b"HTTP/1.1 ")):
            failed.append((data, response))

    async with Scripted(answer=answer_all) as upstream:
        limits = {"body_bytes": 20_000}
        async with gateway(upstream=upstream.url, limits=limits) as gp:
            before = descriptors()
            places = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(play(gp.port, places, mutated(rng)) for _ in range(REQUESTS // 4)))
            assert failed == []
            await until(lambda: not gp.state.in_flight.busy)
            assert descriptors() <= before + AT_ONCE + 15
            assert (await gp.ask().answer()).json() == COMPLETION
    print(f"\nseed {SEED + part}: {dict(sorted(statuses.items()))}")
    assert sum(statuses.values()) == REQUESTS // 4
    assert statuses[200] > 0
    assert statuses[400] > 0
