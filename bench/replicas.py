"""Issuer calls and round trips to the store by the number of replicas: `python -m bench.replicas`, four minutes.

Each of 1, 2, 4 and 8 replicas is a `gatepass serve` on this machine. A group of them shares a real Valkey or Redis
server, another group has no store. The tokens live 5 s. The table has what the issuer and the server counted: while
the replicas had no requests, under chats of a key without limits, and under chats of a key with a limit. A round trip
is one read of the server. The rows of more replicas are computed from those of eight.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.gateway import CHAT, HELLO, JSON, Answer, Ask
from tests.integration.processes import Serving, serving
from tests.integration.scripted import Received, Scripted, Send, reply
from tests.integration.store.real_server import RealServer, real_server

from bench.report import aligned
from gatepass.auth.api_keys import hash_key

COUNTS = (1, 2, 4, 8)
COMPUTED = (16, 32, 64)
LIFE_S = 5
IDLE_S, LOAD_S = 20.0, 10.0
CHATS_PER_S = 100
PLAIN, LIMITED = "gp-plain-0123456789", "gp-limited-0123456789"
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
SETTLED_S = 3.0
"""After the start: each replica has its first token by then."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was counted for a number of replicas.

    - `alone_calls`, `shared_calls`: token calls for each life of a token, without and with a store
    - `idle`: round trips of all replicas in a second
    - `plain`, `limited`: round trips that a chat adds
    - `store_us`: CPU time of the server for each round trip while chats have a limit
    """

    alone_calls: float
    shared_calls: float
    idle: float
    plain: float
    limited: float
    store_us: float


def answer(request: Received) -> Sequence[Send]:
    if request.target == "/token":
        return [
            Send(reply({"access_token": f"token-{time.monotonic_ns()}", "token_type": "Bearer", "expires_in": LIFE_S}))
        ]
    return [Send(reply(ANSWER))]


def configuration(upstream: str, store: Mapping[str, Any] | None) -> dict[str, Any]:
    corp = {"type": "oauth2", "token_url": f"{upstream}/token", "client_id": "bench", "client_secret": "bench-secret"}
    keys = [
        {"name": "plain", "hash": hash_key(PLAIN)},
        {"name": "limited", "hash": hash_key(LIMITED), "limits": {"requests": {"minute": 1_000_000}}},
    ]
    tree: dict[str, Any] = {
        "server": {"drain_timeout_s": 0, "control_socket": "off"},
        "credentials": {"corp": corp},
        "upstreams": {"llm": {"base_url": f"{upstream}/v1", "credential": "corp"}},
        "access": {"keys": keys},
    }
    return tree | ({"store": dict(store)} if store else {})


async def start(stack: AsyncExitStack, folder: Path, count: int, upstream: str, store: Any) -> list[int]:
    """Start the replicas, and return their ports."""
    file = folder / f"{'shared' if store else 'alone'}.json"
    file.write_text(json.dumps(configuration(upstream, store)))
    replicas: list[Serving] = [
        await stack.enter_async_context(serving("--config", str(file), "--port", "0")) for _ in range(count)
    ]
    return [await replica.port for replica in replicas]


def calls(issuer: Scripted) -> int:
    return sum(request.target == "/token" for request in issuer.received)


def counted(store: RealServer) -> tuple[int, float]:
    """Return what the server has read, without this question, and its CPU time in seconds."""
    with store.client() as client:
        found = client.info("everything")
    return found["total_reads_processed"], found["used_cpu_user"] + found["used_cpu_sys"]


async def load(ports: Sequence[int], key: str) -> int:
    """Send chats to the replicas in turn, and return their number. Raises RuntimeError if one fails."""
    begin_s, tasks = time.monotonic(), set[asyncio.Task[Answer]]()
    headers = {**JSON, "authorization": f"Bearer {key}"}
    body = json.dumps(HELLO).encode()
    while (since_s := time.monotonic() - begin_s) < LOAD_S:
        while len(tasks) < since_s * CHATS_PER_S:
            ask = Ask(ports[len(tasks) % len(ports)], "POST", CHAT, headers, body)
            tasks.add(asyncio.create_task(ask.answer()))
        await asyncio.sleep(0.005)
    statuses = {reply.status for reply in await asyncio.gather(*tasks)}
    if statuses != {200}:
        raise RuntimeError(f"chats got {statuses}")
    return len(tasks)


async def measure(folder: Path, count: int, store: RealServer) -> Row:
    async with AsyncExitStack() as stack:
        issuers = [await stack.enter_async_context(Scripted(answer=answer)) for _ in range(2)]
        await start(stack, folder, count, issuers[0].url, None)
        own = {"url": store.settings()["url"].removesuffix("/0") + f"/{count}"}
        ports = await start(stack, folder, count, issuers[1].url, {**store.settings(), **own})
        await asyncio.sleep(SETTLED_S)
        before, (reads, _) = [calls(issuer) for issuer in issuers], counted(store)
        await asyncio.sleep(IDLE_S)
        after, (idle_reads, _) = [calls(issuer) for issuer in issuers], counted(store)
        alone, shared = ((now - then) * LIFE_S / IDLE_S for now, then in zip(after, before, strict=True))
        idle = (idle_reads - reads - 1) / IDLE_S
        added = []
        for key in (PLAIN, LIMITED):
            reads, cpu_s = counted(store)
            begin_s, chats = time.monotonic(), await load(ports, key)
            now, now_cpu_s = counted(store)
            window_s = time.monotonic() - begin_s
            added.append((now - reads - 1 - idle * window_s) / chats)
        return Row(alone, shared, idle, added[0], added[1], (now_cpu_s - cpu_s) / max(1, now - reads) * 1e6)


def computed(count: int, eight: Row) -> Row:
    """Return the row of `count` replicas: what each replica does alone grows with their number, the rest does not."""
    grown = count / COUNTS[-1]
    return Row(
        eight.alone_calls * grown, eight.shared_calls, eight.idle * grown, eight.plain, eight.limited, eight.store_us
    )


def cells(count: int, row: Row, how: str) -> list[str]:
    chats = f"{row.plain:.2f}", f"{row.limited:.2f}"
    return [
        str(count),
        how,
        f"{row.alone_calls:.1f}",
        f"{row.shared_calls:.1f}",
        f"{row.idle:.1f}",
        *chats,
        f"{row.store_us:.0f}",
    ]


HEAD = [
    "replicas",
    "",
    "token calls a life",
    "with a store",
    "idle round trips/s",
    "a chat adds",
    "with a limit",
    "store µs each",
]


async def main() -> None:
    table, rows = [HEAD], {}
    with tempfile.TemporaryDirectory() as folder, real_server(Path(folder)) as store:
        for count in COUNTS:
            rows[count] = await measure(Path(folder), count, store)
            table.append(cells(count, rows[count], "measured"))
    table += [cells(count, computed(count, rows[COUNTS[-1]]), "computed") for count in COMPUTED]
    print("\n".join(aligned(table)))


if __name__ == "__main__":
    asyncio.run(main())
