"""A complete run: each candidate starts once, and all take turns in each round."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.candidates import CLIENT_KEY, Candidate
from bench.environments import SetupFailed
from bench.footprint import Footprint, footprint
from bench.instance import Instance, NotReady
from bench.promises import Figures
from bench.rig import Rig
from bench.sample import Sample, medians
from bench.workloads import Workload

PAUSE_S = 0.15
"""Pause between two windows, in which connections close."""


@dataclass(slots=True)
class Outcome:
    """The results of one candidate.

    - `absent`: why it was not measured.
    - `faults`: work that it did not do. Its figures are then invalid.
    """

    description: str
    absent: str | None = None
    footprints: list[Footprint] = field(default_factory=list)
    runs: dict[str, list[Sample]] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {
            "description": self.description,
            "absent": self.absent,
            "checks": self.checks,
            "faults": self.faults,
            "footprints": [asdict(item) for item in self.footprints],
            "runs": {name: [item.document() for item in samples] for name, samples in self.runs.items()},
            "medians": {name: medians(samples).document() for name, samples in self.runs.items()},
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """`starts`: new processes for the footprint. `whole_footprint`: candidates with all its figures."""

    candidates: Sequence[Candidate]
    workloads: Sequence[Workload]
    rounds: int
    window_s: float
    starts: int
    whole_footprint: frozenset[str]


def run(plan: Plan, rig: Rig) -> dict[str, Outcome]:
    """Measure `plan`. A candidate that fails is absent with its reason, and the run continues."""
    outcomes = {item.name: Outcome(item.description) for item in plan.candidates}
    for candidate in plan.candidates:
        _starts(candidate, plan, rig, outcomes[candidate.name])
    with ExitStack() as stack:
        instances = []
        for candidate in plan.candidates:
            if outcomes[candidate.name].absent is None:
                instances += _started(stack, candidate, rig, outcomes[candidate.name])
        for round_number in range(plan.rounds):
            _round(round_number, plan, instances, outcomes)
        for instance in instances:
            try:
                _check(instance, rig, outcomes[instance.candidate.name])
            except OSError as error:
                outcomes[instance.candidate.name].faults.append(f"it answers after the run ({error})")
    return outcomes


def figures(outcomes: dict[str, Outcome]) -> Figures:
    """Return the medians, for the promises."""
    loads = {
        (name, workload): medians(samples)
        for name, outcome in outcomes.items()
        for workload, samples in outcome.runs.items()
    }
    footprints = {
        (name, figure): median(values)
        for name, outcome in outcomes.items()
        for figure in ("ready_s", "idle_mb", "stream_kib", "peak_bodies")
        if (values := [item for row in outcome.footprints if (item := getattr(row, figure)) is not None])
    }
    return Figures(loads, footprints)


def _starts(candidate: Candidate, plan: Plan, rig: Rig, outcome: Outcome) -> None:
    if candidate.launch is None or candidate.has_reader or candidate.name.endswith("-tls"):
        return
    try:
        for _ in range(plan.starts):
            outcome.footprints.append(footprint(candidate, rig, is_complete=candidate.name in plan.whole_footprint))
            _log(f"{candidate.name}: {_footprint_text(outcome.footprints[-1])}")
    except (SetupFailed, NotReady, OSError) as error:
        outcome.absent = str(error)
        _log(f"{candidate.name}: {error}")


def _started(stack: ExitStack, candidate: Candidate, rig: Rig, outcome: Outcome) -> list[Instance]:
    if candidate.name.endswith("-tls") and rig.no_tls is not None:
        outcome.absent = rig.no_tls
        return []
    try:
        return [stack.enter_context(Instance(candidate, rig))]
    except (SetupFailed, NotReady, OSError) as error:
        outcome.absent = str(error)
        _log(f"{candidate.name}: {error}")
        return []


def _round(round_number: int, plan: Plan, instances: list[Instance], outcomes: dict[str, Outcome]) -> None:
    for workload in plan.workloads:
        taking_part = [item for item in instances if _takes_part(item.candidate, workload)]
        first = round_number % len(taking_part) if taking_part else 0
        for instance in taking_part[first:] + taking_part[:first]:
            name = instance.candidate.name
            try:
                sample = instance.measure(workload, plan.window_s)
            except NotReady as error:
                _log(f"round {round_number + 1} {workload.name} {name}: {error}")
                continue
            outcomes[name].runs.setdefault(workload.name, []).append(sample)
            _log(f"round {round_number + 1} {workload.name:<13} {name:<15} {_sample_text(sample)}")
            time.sleep(PAUSE_S)


def _takes_part(candidate: Candidate, workload: Workload) -> bool:
    return candidate.name in workload.candidates or (
        candidate.is_gatepass and _counterpart(candidate) in workload.candidates
    )


def _counterpart(candidate: Candidate) -> str:
    """Return the candidate whose workloads another checkout of gatepass takes part in."""
    if candidate.has_reader:
        return "gatepass-piped"
    return "gatepass-tls" if candidate.name.endswith("-tls") else "gatepass"


def _check(instance: Instance, rig: Rig, outcome: Outcome) -> None:
    """Record the evidence that gatepass did all its work during the run, and the missing evidence."""
    if not instance.candidate.is_gatepass:
        return
    instance.ask("chat")
    upstream_stats, issuer, moved = rig.mock(), rig.issuer(), rig.mock()["images_moved"]
    instance.ask("images")
    lines, served = instance.log_lines(), instance.served()
    checks = {
        "a fresh token of the issuer went up": upstream_stats["authorization"].startswith("Bearer bench-"),
        "the model was renamed": upstream_stats["model"].startswith("deployed-"),
        "images were moved": rig.mock()["images_moved"] == moved + 1,
        "a broken stream was repaired": b"\n\n: still here\n\n" not in instance.ask("mixed"),
        "each request has a log line": any('"caller":"load"' in line for line in lines[-3:]),
        "the metrics count": bool(served),
        "the log contains no key": not any(CLIENT_KEY in line for line in lines[-5000:]),
    }
    outcome.checks = [claim for claim, holds in checks.items() if holds]
    outcome.faults = [claim for claim, holds in checks.items() if not holds]
    outcome.checks += [f"{issuer['minted']} tokens were minted by the issuer", f"{len(lines)} log lines", *served]


def _footprint_text(item: Footprint) -> str:
    rest = "" if item.stream_kib is None else f", {item.stream_kib:.1f} KiB a stream"
    rest += "" if item.peak_bodies is None else f", peak {item.peak_bodies:.1f} bodies"
    return f"ready in {item.ready_s:.2f} s, idle {item.idle_mb:.1f} MB{rest}" + (
        f", {item.errors} errors" * bool(item.errors)
    )


def _sample_text(item: Sample) -> str:
    return (
        f"{item.requests_s:8.0f} req/s {item.events_s:9.0f} ev/s {item.mb_s:7.1f} MB/s {item.cpu_us:8.1f} µs CPU"
        f" p50 {item.latency_p50_us:8.0f} µs  core {item.gateway_cpu:.2f} rig {item.rig_cpu:.2f}"
        + (f"  {item.errors:.0f} errors {item.note}" if item.errors else "")
    )


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
