"""`--against OLD`: compare this code with older code in alternating runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType

from bench import series
from bench.candidates import CANDIDATES, Candidate, gatepass, gatepass_uvicorn
from bench.environments import SetupFailed
from bench.paths import GENERATED, ROOT
from bench.report import aligned, number
from bench.rig import Rig
from bench.series import Outcome, Plan
from bench.workloads import Workload

RUNS = 5
PEER_RUNS = 2
"""The number of runs in which the peers take part. Their figures do not affect the result."""
ALLOWED = 0.05
"""A median may be worse by this share of the old one plus the spread of the runs."""
OLD, NEW = "before", "gatepass"
UVICORN = "gatepass-uvicorn"
PEERS = (UVICORN, "tuned", "nginx")
RATES = frozenset(("requests_s", "events_s", "mb_s"))
"""Figures of which more is better. Of all others less is better."""
COMPARED_FIGURES = MappingProxyType(
    {
        "chat": ("cpu_us", "requests_s", "latency_p50_us"),
        "burst": ("cpu_us", "events_s"),
        "tools": ("cpu_us", "events_s"),
        "paced": ("cpu_us", "ttft_added_p50_us", "delay_p50_us"),
        "embeddings": ("cpu_us", "mb_s"),
        "images": ("cpu_us", "latency_p50_us"),
    }
)
"""The compared figures, by the first word of the workload's name."""
FRESH = "fresh process"
FOOTPRINT = ("ready_s", "idle_mb", "stream_kib", "peak_bodies")


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of both versions, with a value for each run."""

    work: str
    figure: str
    old: tuple[float, ...]
    new: tuple[float, ...]

    @property
    def change(self) -> float:
        """Return how much worse the new median is, as a share of the old one. Below 0 it is better."""
        change = median(self.new) / median(self.old) - 1.0
        return -change if self.figure in RATES else change

    @property
    def spread(self) -> float:
        """Return the larger spread of the two versions."""
        return max(spread(self.old), spread(self.new))

    @property
    def is_worse(self) -> bool:
        return self.change > ALLOWED + self.spread


def spread(values: Sequence[float]) -> float:
    """Return the spread of the runs as a share of their median. From four runs on, ignore the two outermost."""
    ordered = sorted(values)
    inner = ordered[1:-1] if len(ordered) > 3 else ordered
    return (inner[-1] - inner[0]) / median(ordered)


def run(old: Path, rig: Rig, workloads: Sequence[Workload], runs: int, window_s: float) -> dict[str, Outcome]:
    """Measure `old` and this code alternately, with fresh processes for each run."""
    frozen = _frozen()
    before = Candidate(OLD, f"gatepass of {old.name}", gatepass(old), True)
    new = Candidate(NEW, "gatepass as it is here", gatepass(frozen), True)
    candidates = {one.name: one for one in CANDIDATES}
    candidates[UVICORN] = Candidate(UVICORN, candidates[UVICORN].description, gatepass_uvicorn(frozen))
    outcomes: dict[str, Outcome] = {}
    for run_number in range(runs):
        pair = [before, new] if run_number % 2 == 0 else [new, before]
        peers = [candidates[name] for name in PEERS] if run_number < PEER_RUNS else []
        plan = Plan([*pair, *peers], workloads, 1, window_s, 1, frozenset((OLD, NEW)))
        for name, outcome in series.run(plan, rig).items():
            _add(outcomes.setdefault(name, outcome), outcome)
    return outcomes


def _frozen() -> Path:
    """Copy this code, because the working tree may change during the runs."""
    home = GENERATED / "against" / "this"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(ROOT / "src", home / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return home


def _add(total: Outcome, part: Outcome) -> None:
    if total is part:
        return
    total.absent = total.absent or part.absent
    total.footprints += part.footprints
    total.faults += part.faults
    for name, samples in part.runs.items():
        total.runs.setdefault(name, []).extend(samples)


def compared(outcomes: Mapping[str, Outcome], workloads: Iterable[Workload]) -> list[Compared]:
    """Return every figure that both versions have."""
    found = [
        Compared(workload.name, figure, _values(outcomes[OLD], workload.name, figure), new)
        for workload in workloads
        for figure in COMPARED_FIGURES[workload.name.partition("-")[0]]
        if (new := _values(outcomes[NEW], workload.name, figure))
    ]
    found += [
        Compared(FRESH, figure, _fresh(outcomes[OLD], figure), new)
        for figure in FOOTPRINT
        if (new := _fresh(outcomes[NEW], figure))
    ]
    return [one for one in found if one.old and median(one.old) > 0]


def failures(outcomes: Mapping[str, Outcome], found: Sequence[Compared], workloads: Iterable[Workload]) -> list[str]:
    """Return why this code is worse or why the runs cannot show it; empty if it is no worse."""
    reported = [f"{name}: {outcomes[name].absent}" for name in (OLD, NEW) if outcomes[name].absent]
    reported += [f"{NEW}: not so: {fault}" for fault in dict.fromkeys(outcomes[NEW].faults)]
    for workload in workloads:
        errors = {name: sum(_values(outcomes[name], workload.name, "errors")) for name in (OLD, NEW)}
        if errors[NEW] > errors[OLD]:
            reported.append(f"{workload.name}: {errors[NEW]:.0f} errors, {errors[OLD]:.0f} before")
        if not any(one.work == workload.name for one in found):
            reported.append(f"{workload.name}: not measured")
    return reported + [
        f"{one.work} {one.figure}: {one.change:+.1%} where {ALLOWED:.0%} and a spread of {one.spread:.1%} are allowed"
        for one in found
        if one.is_worse
    ]


def table(outcomes: Mapping[str, Outcome], found: Sequence[Compared]) -> list[str]:
    """Return lines for the terminal: medians, change, spread and the medians of the peers."""
    peers = [name for name in PEERS if name in outcomes and not outcomes[name].absent]
    rows = [["work", "figure", "old", "new", "worse by", "spread", "", *peers]]
    for one in found:
        values = [_fresh(outcomes[p], one.figure) or _values(outcomes[p], one.work, one.figure) for p in peers]
        cells = [number(median(of_peer)) if of_peer else "" for of_peer in values]
        status = "worse" if one.is_worse else ""
        medians = (number(median(one.old)), number(median(one.new)))
        rows.append([one.work, one.figure, *medians, f"{one.change:+.1%}", f"{one.spread:.1%}", status, *cells])
    return aligned(rows)


def checkout(old: str) -> Path:
    """Return the folder `old`, or the unpacked sources of the git revision `old`; raise SetupFailed."""
    if (Path(old) / "src" / "gatepass").is_dir():
        return Path(old)
    commit = _git("rev-parse", "--verify", "--quiet", f"{old}^{{commit}}").decode().strip()
    home = GENERATED / "against" / commit[:12]
    if not home.exists():
        archive = _git("archive", commit, "src")
        home.mkdir(parents=True)
        try:
            subprocess.run(["tar", "-x", "-C", home], input=archive, check=True)  # noqa: S607 - the machine's own
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(home)
            raise SetupFailed(f"{old} could not be unpacked: {error}") from error
    return home


def _git(*arguments: str) -> bytes:
    try:
        completed = subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True)  # noqa: S607 - the machine's own
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupFailed(f"--against is neither a checkout of gatepass nor a revision of git: {error}") from error
    return completed.stdout


def _values(outcome: Outcome, workload: str, figure: str) -> tuple[float, ...]:
    return tuple(getattr(sample, figure) for sample in outcome.runs.get(workload, ()))


def _fresh(outcome: Outcome, figure: str) -> tuple[float, ...]:
    return tuple(value for one in outcome.footprints if (value := getattr(one, figure, None)) is not None)
