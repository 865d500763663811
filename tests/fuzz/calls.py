"""Draw valid streams of tool calls, and compare what they mean before and behind gatepass: without a corpus."""

import asyncio
import itertools
import math
import tempfile
import time
from pathlib import Path

from tests.fuzz.campaign import PromiseBroken
from tests.integration.tool_meanings import WAYS, Report, five_ways, report

NAME = "calls"
SHARE = 1
"""Of a campaign over all targets. A stream passes five times through a process of its own."""
BATCH = 500
"""Streams for one process of gatepass and its upstream, which remembers what it received."""


def compare(first: int, *, seconds: float = math.inf, runs_at_most: float = math.inf) -> None:
    """Print the figures of each way; raise PromiseBroken with the shortest stream that differs.

    The seeds count from `first` on.
    """
    ends_s, left = time.monotonic() + seconds, runs_at_most
    reports = {name: Report(name) for name in WAYS}
    for start in itertools.count(first, BATCH):
        size = int(min(BATCH, left))
        left -= size
        asyncio.run(_add(reports, range(start, start + size)))
        if left < 1 or time.monotonic() > ends_s:
            break
    print(*reports.values(), sep="\n", flush=True)
    if faults := sorted((fault for one in reports.values() for fault in one.faults), key=len):
        raise PromiseBroken(f"{len(faults)} streams. The shortest one:\n{faults[0]}")


async def _add(reports: dict[str, Report], seeds: range) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with five_ways(Path(folder)) as ways:
            for name, made in reports.items():
                made.add(await report(ways, name, seeds))
