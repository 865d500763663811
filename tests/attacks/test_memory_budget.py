"""The memory of a whole process stays below the sum in docs/operations/limits_and_memory.md, whatever clients hold."""

import asyncio
import json
import os
import re
import resource
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from gatepass.proxy.in_flight import FREE_BYTES
from tests.attacks.conftest import Attack
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send
from tests.waiting import at_rest

MIB = 1 << 20
KEYS = 2
LIMITS = {"held_bytes": 64 * MIB, "body_bytes": 8 * MIB, "reply_bytes": 8 * MIB, "event_bytes": 4 * MIB}
CONNECTION_BYTES = 30 * 1024
BEGIN = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"'
)
END = b'"},"finish_reason":null}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n\r\n"
HELD_S = 4.0
"""How long the clients hold what they have."""
REST_S = 1.5
"""A peak that has not grown for so long does not grow any more."""


REPLIES: Mapping[bytes, Dialogue] = {
    b"reply-end": [
        Send(HEAD % b"application/json" + b'{"object":"list","data":[{"text":"'),
        *[Send(b"x" * MIB)] * 7,
        Hold(),
    ],
    b"stream-end": [Send(HEAD % b"text/event-stream"), *[Send((BEGIN + b"y" * 200 + END) * 800)] * 500, Hold()],
    b"event-end": [Send(HEAD % b"text/event-stream" + BEGIN + END + BEGIN), *[Send(b"z" * (MIB // 2))] * 7, Hold()],
}
"""By a word of the request: a large reply, a long stream, and an event that does not end."""


def answer(request: Received) -> Dialogue:
    return next((dialogue for word, dialogue in REPLIES.items() if word in request.body), [Hold()])


def request(name: bytes, key: int, padding_bytes: int = 0, *, unfinished: bool = False) -> bytes:
    stream = b"true" if name in (b"stream", b"event") else b"false"
    path = b"moderations" if name == b"reply" else b"chat/completions"
    text = b"x" * padding_bytes + name + b"-end"
    body = b'{"model":"m","stream":%b,"input":"i","messages":[{"role":"user","content":"%b"}]}' % (stream, text)
    head = b"POST /v1/%b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer %b\r\n"
    sent = head % (path, key_of(key).encode()) + b"content-length: %d\r\n\r\n" % len(body) + body
    return sent[:-3] if unfinished else sent


def key_of(number: int) -> str:
    return f"sk-Qw3rTy81ZxCvBn7m4kJhGfDs9aPo0iUy2e{number}"


CLASSES: Mapping[str, tuple[int, Callable[[int], bytes]]] = {
    "heads": (400, lambda _: b"GET /v1/models HTTP/1.1\r\nhost: x\r\na: " + b"x" * 60_000),
    "bodies": (24, lambda number: request(b"body", number % KEYS, 7 * MIB, unfinished=True)),
    "replies": (24, lambda number: request(b"reply", number % KEYS)),
    "streams": (150, lambda number: request(b"stream", number % KEYS)),
    "events": (24, lambda number: request(b"event", number % KEYS)),
}


@asynccontextmanager
async def process(folder: Path, upstream_url: str) -> AsyncIterator[tuple[Process, int]]:
    file = folder / "gatepass.json"
    keys = [{"name": f"key-{number}", "key": f"${{K{number}}}"} for number in range(KEYS)]
    upstreams = {"chat": {"base_url": f"{upstream_url}/v1"}}
    file.write_text(
        json.dumps(
            {"upstreams": upstreams, "limits": LIMITS, "access": {"keys": keys}, "server": {"control_socket": "off"}}
        )
    )
    environment = {**os.environ, **{f"K{number}": key_of(number) for number in range(KEYS)}}
    command = (sys.executable, "-m", "gatepass", "serve", "--config", str(file), "--port", "0", "--log-format", "json")
    child = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=PIPE, env=environment)
    assert child.stderr is not None
    try:
        async for line in child.stderr:
            if found := re.search(rb"http://127\.0\.0\.1:(\d+)", line):
                break
        assert found is not None
        reading = asyncio.ensure_future(child.stderr.read())
        yield child, int(found[1])
        reading.cancel()
    finally:
        child.kill()
        await child.wait()


def peak_bytes(child: Process) -> int:
    text = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


async def hold(port: int, number: int, sent: bytes, stack: ExitStack) -> None:
    """Send `sent` on a connection from one of 40 addresses, and read nothing."""
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    client.bind((f"127.0.0.{2 + number % 40}", 0))
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(HELD_S):
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, sent)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.attack("memory of a process")
@pytest.mark.parametrize("names", [("heads", "bodies"), ("replies", "streams", "events"), (*CLASSES,)], ids="+".join)
async def test_the_peak_of_a_process_is_below_the_documented_sum(
    attack: Attack, names: tuple[str, ...], tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    chosen = [CLASSES[name] for name in names]
    async with Scripted(answer=answer) as upstream, process(tmp_path, upstream.url) as (child, port):
        with ExitStack() as stack:
            sent = [(count, [make(key) for key in range(KEYS)]) for count, make in chosen]  # each text is here once
            holding = [hold(port, at, texts[at % KEYS], stack) for count, texts in sent for at in range(count)]
            await asyncio.gather(*holding)
            attack.peak_bytes = await at_rest(lambda: peak_bytes(child), REST_S)
    # docs/operations/limits_and_memory.md has the sum, with two copies of a reply
    sum_bytes = 80 * MIB + LIMITS["held_bytes"] * 9 // 8 + LIMITS["body_bytes"] + 3 * LIMITS["reply_bytes"]
    small = CLASSES["streams"][0] if "streams" in names else 0  # the others hold more than FREE_BYTES, or only a head
    attack.allowed_bytes = sum_bytes + len(holding) * CONNECTION_BYTES + small * FREE_BYTES
    attack.check(attack.peak_bytes <= attack.allowed_bytes, (names, attack.peak_bytes // MIB))
