"""Ten minutes of mixed load: `python -m bench.soak` fails if memory or file descriptors grow."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import click

from bench import rig
from bench.candidates import CANDIDATES
from bench.environments import SetupFailed
from bench.instance import Instance, NotReady
from bench.machine import source
from bench.paths import RESULTS
from bench.processes import MB, NotEnoughCores, open_files, proportional_bytes
from bench.workloads import named

PARTS = ("chat-64", "burst-32", "tools-32", "paced-500", "embeddings-8", "images-4")
WINDOW_S = 4.0
REST_S = 34.0
"""Longer than a pool keeps an idle connection (30 s), and than a replaced token lives. Memory at rest would otherwise
follow the number of idle connections, which is anything up to 500 when each connection ends at an age of 120 s."""
GROWTH = 0.05
"""Allowed growth of the last third over the second third."""


@dataclass(frozen=True, slots=True)
class Rest:
    """gatepass at rest between two rounds of load. Counts are totals. Each load opens new connections."""

    after_s: float
    memory_mb: float
    open_files: int
    connections: int
    requests: int
    events: int
    errors: int


def is_flat(rests: Sequence[Rest]) -> bool:
    """Return whether memory and file descriptors are flat: the last third against the second. The first third warms up
    arenas, connections and caches."""
    third = max(1, len(rests) // 3)
    middle, last = rests[third : 2 * third] or rests[:1], rests[-third:]
    grown = median(one.memory_mb for one in last) / median(one.memory_mb for one in middle) - 1
    return grown <= GROWTH and last[-1].open_files <= max(one.open_files for one in middle)


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True)
def main(minutes: float) -> None:
    """Load gatepass for MINUTES, print its memory at rest after each round, and fail if it grows."""
    candidate = next(one for one in CANDIDATES if one.name == "gatepass")
    try:
        with rig.running() as running_rig, Instance(candidate, running_rig) as instance:
            rests = _run(instance, minutes * 60)
    except (SetupFailed, NotReady, NotEnoughCores) as error:
        raise click.ClickException(str(error)) from error
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {"source": source(), "flat": is_flat(rests), "rests": [asdict(one) for one in rests]}
    (RESULTS / "soak.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    print("flat" if is_flat(rests) else "NOT flat")
    if not is_flat(rests) or rests[-1].errors:
        raise SystemExit(1)


def _run(instance: Instance, bound_s: float) -> list[Rest]:
    began_s, rests, connections, requests, events, errors = time.monotonic(), list[Rest](), 0, 0, 0, 0
    while not rests or time.monotonic() - began_s < bound_s:
        for workload in named(PARTS):
            sample = instance.measure(workload, WINDOW_S)
            window_s = workload.window_s or WINDOW_S
            connections += workload.connections
            requests += round(sample.requests_s * window_s)
            events += round(sample.events_s * window_s)
            errors += round(sample.errors)
        time.sleep(REST_S)
        pids, after_s = instance.pids, time.monotonic() - began_s
        memory_mb = proportional_bytes(pids) / MB
        totals = connections, requests, events, errors
        rests.append(Rest(round(after_s, 1), round(memory_mb, 1), open_files(pids), *totals))
        print(rests[-1], flush=True)
    return rests


if __name__ == "__main__":
    main()
