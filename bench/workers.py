"""Throughput of one worker and of two: `python -m bench.workers`, half a minute.

gatepass uses both cores here, and shares the second one with the upstream and the load generator. The table therefore
has requests per second, CPU per request, and the share of the rig, which explains why the rate does not double.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import click

from bench import rig
from bench.candidates import Candidate, Launch, Ports, gatepass
from bench.environments import SetupFailed
from bench.instance import Instance, NotReady
from bench.machine import machine, source
from bench.paths import RESULTS
from bench.processes import NotEnoughCores
from bench.report import aligned
from bench.rig import Rig
from bench.sample import Sample
from bench.workloads import named

COUNTS = (1, 2)
MEASURED = ("chat-64", "burst-32", "embeddings-8")


def _with_workers(count: int) -> Candidate:
    single = gatepass()

    def launch(ports: Ports, port: int) -> Launch:
        started = single(ports, port)
        return replace(started, command=(*started.command, "--workers", str(count)))

    return Candidate(f"workers-{count}", f"--workers {count}", launch, is_gatepass=True)


def _spread(pids: Sequence[int], running_rig: Rig) -> None:
    """Allow every thread of `pids` to run on both cores."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {running_rig.gateway_core, running_rig.rig_core})


def _measure(count: int, running_rig: Rig, rounds: int, seconds: float) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {}
    with Instance(_with_workers(count), running_rig) as instance:
        _spread(instance.pids, running_rig)
        for workload in named(MEASURED) * rounds:
            samples.setdefault(workload.name, []).append(instance.measure(workload, seconds))
    return samples


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.2), default=2.0, show_default=True)
def main(rounds: int, seconds: float) -> None:
    """Measure one worker and two on both cores, print the rates, and write workers.json for docs/benchmarks.md."""
    machine_at_start = machine()
    try:
        with rig.running() as running_rig:
            found = {count: _measure(count, running_rig, rounds, seconds) for count in COUNTS}
    except (SetupFailed, NotEnoughCores, NotReady) as error:
        raise click.ClickException(str(error)) from error
    rows = [["", "workers", "req/s", "x one", "CPU µs", "cores of gatepass", "cores of the rig", "errors"]]
    rows += [_row(workload.name, count, found) for workload in named(MEASURED) for count in COUNTS]
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine_at_start, "source": source(), "table": rows}
    (RESULTS / "workers.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    print("\n".join(aligned(rows)))


def _row(name: str, count: int, found: dict[int, dict[str, list[Sample]]]) -> list[str]:
    samples, alone = found[count][name], found[COUNTS[0]][name]
    rate = median(single.requests_s for single in samples)
    cells = (median(single.cpu_us for single in samples), median(single.gateway_cpu for single in samples))
    grown = rate / median(single.requests_s for single in alone)
    rig_cpu, errors = median(single.rig_cpu for single in samples), sum(single.errors for single in samples)
    shown = (f"{rate:,.0f}", f"{grown:.2f}", f"{cells[0]:.1f}", f"{cells[1]:.2f}", f"{rig_cpu:.2f}", f"{errors:g}")
    return [name, str(count), *shown]


if __name__ == "__main__":
    main()
