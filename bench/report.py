"""The figures as tables, and the report for the terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.promises import Figures, Result
from bench.sample import Sample
from bench.series import Outcome
from bench.workloads import Workload


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    figure: str
    decimals: int = 0


ALL = (Column("CPU µs", "cpu_us", 1), Column("gateway core", "gateway_cpu", 2), Column("rig core", "rig_cpu", 2))
CHAT = (Column("req/s", "requests_s"), Column("p50 µs", "latency_p50_us"), Column("p99 µs", "latency_p99_us"), *ALL)
STREAM = (
    Column("events/s", "events_s"),
    Column("delay p50 µs", "delay_p50_us"),
    Column("delay p99 µs", "delay_p99_us"),
    Column("TTFT added p50 µs", "ttft_added_p50_us"),
    *ALL,
)
BYTES = (Column("MB/s", "mb_s"), *CHAT)
COLUMNS = {
    "burst": STREAM,
    "tools": STREAM,
    "repaired": STREAM,
    "emulated": STREAM,
    "paced": STREAM,
    "embeddings": BYTES,
}
LAST = (Column("MB", "memory_mb"), Column("errors", "errors"))

FOOTPRINT = (("ready s", "ready_s", 2), ("idle MB", "idle_mb", 1), ("KiB a slow stream", "stream_kib", 1))
FOOTPRINT_ALL = (*FOOTPRINT, ("peak of a 4 MB body, x", "peak_bodies", 1))

Table = list[list[str]]


def promise_document(result: Result) -> dict[str, Any]:
    promise = result.promise
    return {
        "work": promise.work,
        "measure": promise.measure,
        "wanted": wanted(result),
        "value": None if result.value is None else round(result.value, 3),
        "met": result.met,
        "missed_by": round(result.miss, 3),
    }


def report(
    figures: Figures, results: Sequence[Result], outcomes: Mapping[str, Outcome], workloads: Iterable[Workload]
) -> str:
    """Return the report for the terminal."""
    parts = []
    for workload in workloads:
        table = load_table(figures, workload, list(outcomes))
        parts += [f"\n{workload.name}: {workload.description}", *aligned(table)] if len(table) > 1 else []
    parts += ["\nfresh processes", *aligned(footprint_table(figures, list(outcomes)))]
    known = [result for result in results if result.value is not None]
    parts += ["\npromises", *aligned(promise_table(known))]
    parts += [f"{len(results) - len(known)} of {len(results)} promises are not part of this run"] * (known != results)
    parts += [f"not measured: {name}: {one.absent}" for name, one in outcomes.items() if one.absent]
    return "\n".join(parts)


def load_table(
    figures: Figures, workload: Workload, names: Sequence[str], left_out: frozenset[str] = frozenset()
) -> Table:
    """Return a row for each measured candidate, without the figures in `left_out` and empty columns."""
    samples = {name: figures.loads[name, workload.name] for name in names if (name, workload.name) in figures.loads}
    columns = [
        column
        for column in (*COLUMNS.get(workload.name.partition("-")[0], CHAT), *LAST)
        if column.figure not in left_out and any(_figure(sample, column) for sample in samples.values())
    ]
    rows = [["", *(column.title for column in columns)]]
    return rows + [[name, *(_figure(sample, column) for column in columns)] for name, sample in samples.items()]


def footprint_table(figures: Figures, names: Sequence[str]) -> Table:
    rows = [["", *(title for title, _, _ in FOOTPRINT_ALL)]]
    for name in names:
        cells = [(figures.footprints.get((name, figure)), decimals) for _, figure, decimals in FOOTPRINT_ALL]
        if any(value is not None for value, _ in cells):
            rows.append([name, *("" if value is None else f"{value:,.{decimals}f}" for value, decimals in cells)])
    return rows


def promise_table(results: Sequence[Result]) -> Table:
    rows = [["work", "measure", "wanted", "measured", ""]]
    for result in results:
        value = "" if result.value is None else f"{measured(result)} {result.promise.unit}"
        rows.append([result.promise.work, result.promise.measure, wanted(result), value, status(result)])
    return rows


def _figure(sample: Sample, column: Column) -> str:
    value: float = getattr(sample, column.figure)
    return "" if value < 0 else f"{value:,.{column.decimals}f}"


def wanted(result: Result) -> str:
    promise = result.promise
    return f"{'≥' if promise.at_least else '≤'} {promise.limit:g} {promise.unit}"


def status(result: Result) -> str:
    if result.met is None:
        return "not measured"
    return "met" if result.met else f"missed by {result.miss:.1%}"


def measured(result: Result) -> str:
    """Return the value, with one more digit if it would look like the limit that it misses."""
    value = result.value or 0.0
    reported = number(value)
    return f"{value:.4g}" if result.met is False and reported == number(result.promise.limit) else reported


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def aligned(table: Table) -> list[str]:
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    texts = {at for at in range(len(widths)) if any(char.isalpha() for row in table[1:] for char in row[at])}
    return [
        "  ".join(cell.ljust(width) if at in texts else cell.rjust(width) for at, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in table)
    ]
