"""Cost of 1 to 2,000 paced streams and of bodies of 1 KB to 16 MB, compared with nginx: `python -m bench.curves`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from bench import report, rig, series
from bench.candidates import CANDIDATES
from bench.environments import SetupFailed
from bench.machine import machine, source
from bench.paths import RESULTS
from bench.processes import NotEnoughCores
from bench.promises import Figures
from bench.series import Plan
from bench.workloads import FAST_CANDIDATES, Workload, body_curve, stream_curve


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.2), default=1.5, show_default=True, help="A window of the bodies'.")
def main(rounds: int, seconds: float) -> None:
    """Measure both curves, print them and write curves.json, which docs/benchmarks.md shows."""
    began_on, curves = machine(), (stream_curve(), body_curve())
    plan = Plan(
        candidates=[one for one in CANDIDATES if one.name in FAST_CANDIDATES[1:]],
        workloads=[workload for curve in curves for workload in curve],
        rounds=rounds,
        window_s=seconds,
        starts=0,
        whole_footprint=frozenset(),
    )
    try:
        with rig.running() as running_rig:
            outcomes = series.run(plan, running_rig)
    except (SetupFailed, NotEnoughCores) as error:
        raise click.ClickException(str(error)) from error
    figures = series.figures(outcomes)
    tables = {title: _table(figures, curve) for title, curve in zip(("streams", "bodies"), curves, strict=True)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": began_on,
        "source": source(),
        "tables": tables,
        "candidates": {name: one.document() for name, one in outcomes.items()},
    }
    (RESULTS / "curves.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    for title, table in tables.items():
        print(f"\n{title}")
        print("\n".join(report.aligned(table)))


def _table(figures: Figures, curve: Sequence[Workload]) -> report.Table:
    """Return one row per step with the figures of gatepass and nginx."""
    rows = [["", "gatepass CPU µs", "nginx CPU µs", "ratio", "gatepass delay or p99 ms", "gatepass MB", "errors"]]
    for workload in curve:
        ours, theirs = (figures.loads.get((name, workload.name)) for name in ("gatepass", "nginx"))
        if ours is None or theirs is None:
            continue
        late_us = ours.delay_p99_us if workload.once else ours.latency_p99_us
        ratio = f"{ours.cpu_us / theirs.cpu_us:.1f}" if theirs.cpu_us else ""
        cells = [f"{ours.cpu_us:,.1f}", f"{theirs.cpu_us:,.1f}", ratio, f"{late_us / 1000:,.2f}"]
        rows.append([workload.name, *cells, f"{ours.memory_mb:,.0f}", f"{ours.errors:g}"])
    return rows


if __name__ == "__main__":
    main()
