"""Limits of use that several processes count together in a real Valkey or Redis server.

Each of 1, 2 and 4 processes offers its share of 400 requests a second, in turn against 500 requests and 20,000 tokens a
minute. Prints how much the fullest 60 s of each limit admitted, at any offset, how much of the limit was used, and the
CPU time of a request.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.integration.store.real_server import real_server

from gatepass.clock import SystemClock
from gatepass.config.model import StoreSettings
from gatepass.policy.limits import CONCURRENT, KEPT, REQUESTS, TOKENS, Limit, Taken
from gatepass.proxy.shared_counts import SharedCounts
from gatepass.store import guarded
from gatepass.store.guarded import open_store

OFFERED_PER_S, TOKENS_OF_REQUEST = 400, 40
LIMITS: Mapping[str, tuple[str, str, int]] = MappingProxyType(
    {"500 requests a minute": (REQUESTS, "minute", 500), "20000 tokens a minute": (TOKENS, "minute", 20_000)}
)
AMOUNTS: Mapping[str, int] = MappingProxyType({REQUESTS: 1, TOKENS: TOKENS_OF_REQUEST, CONCURRENT: 1})
LEAST_USED = 12 / 13
START_S = 8.0

Admitted = dict[str, list[int]]
"""Of each limit, the parts of the server's clock in which it admitted a request."""


def offer(settings: Mapping[str, Any], per_s: float, begin_s: float, seconds: float) -> tuple[Admitted, float, int]:
    """Return what was admitted, the seconds of CPU time, and the number of requests, of a process."""
    return asyncio.run(_offer(settings, per_s, begin_s, seconds))


async def _offer(
    settings: Mapping[str, Any], per_s: float, begin_s: float, seconds: float
) -> tuple[Admitted, float, int]:
    clock = SystemClock()
    store = open_store(StoreSettings.model_validate(settings), clock)
    if store is None:
        raise RuntimeError("no store")
    guarded.BOUND_S = 5.0  # a busy machine needs longer than requests wait
    counts = SharedCounts(store, clock)
    limits = {name: counts.attach(Limit(("caller", name), *limit)) for name, limit in LIMITS.items()}
    counts.start()
    admitted: Admitted = {name: [] for name in LIMITS}
    names = list(LIMITS)

    async def ask(name: str) -> None:
        taken = await counts.admit([limits[name]], AMOUNTS, clock.now())
        if isinstance(taken, Taken):
            admitted[name].append(int(taken.places[0]))
            counts.settle(taken, AMOUNTS, clock.now())

    await asyncio.sleep(begin_s - clock.now())
    cpu_s, count = time.process_time(), 0
    async with asyncio.TaskGroup() as requests:
        while (since_s := clock.now() - begin_s) < seconds:
            while count < since_s * per_s:
                requests.create_task(ask(names[count % len(names)]))
                count += 1
            await asyncio.sleep(0.001)
    cpu_s = time.process_time() - cpu_s
    await counts.aclose()
    await store.aclose()
    return admitted, cpu_s, count


def fullest(parts: Sequence[int]) -> int:
    """Return the most requests in 60 s, at any offset: they touch 13 parts at most."""
    ordered = sorted(parts)
    return max((bisect_right(ordered, part + KEPT - 1) - at for at, part in enumerate(ordered)), default=0)


def run(settings: Mapping[str, Any], processes: int, seconds: float) -> tuple[Admitted, float]:
    """Return what all processes admitted together, and the microseconds of CPU time for each request."""
    begin_s = SystemClock().now() + START_S
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        per_s = OFFERED_PER_S / processes
        found = pool.starmap(offer, [(settings, per_s, begin_s, seconds)] * processes, chunksize=1)
    together = {name: [part for admitted, _, _ in found for part in admitted[name]] for name in LIMITS}
    return together, sum(cpu_s for _, cpu_s, _ in found) / max(1, sum(count for _, _, count in found)) * 1e6


def main(seconds: float = 60.0, *counts: float) -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, real_server(Path(folder)) as server:
        for processes in map(int, counts or (1, 2, 4)):
            with server.client() as client:
                client.flushall()
            together, cpu_us = run(server.settings(), processes, seconds)
            for name, (unit, _, most) in LIMITS.items():
                parts, cost = together[name], TOKENS_OF_REQUEST if unit == TOKENS else 1
                used = len(parts) * cost / (most * max(1.0, seconds / 60))
                wrong += fullest(parts) * cost > most or used < LEAST_USED
                print(f"{processes} processes, {name}: {fullest(parts) * cost} in the fullest 60 s, {used:.1%} used")
            print(f"{processes} processes: {cpu_us:.0f} µs of CPU time a request")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
