"""`python -m bench [--quick]`: measure, print the tables, and write the results and docs/benchmarks.md."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from bench import candidates, comparison, page, profile, promises, report, rig, series, workloads
from bench.candidates import CANDIDATES, Candidate
from bench.environments import SetupFailed, fetch_nginx
from bench.machine import commit, machine, source, versions
from bench.paths import PAGE, PUBLISHED, RESULTS
from bench.processes import NotEnoughCores
from bench.series import Plan

WHOLE_FOOTPRINT = frozenset(("gatepass", "nginx", "naive"))


@click.command()
@click.option("--quick", is_flag=True, help="Measure the core workloads, without peers that require a download.")
@click.option("--only", help="Candidates, separated by commas.")
@click.option("--workloads", "wanted", help="Workloads, separated by commas.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds; medians are over them. [3, quick 2, --against 5]")
@click.option(
    "--seconds", type=click.FloatRange(0.2), help="Length of a window, except of paced streams. [2, quick 1.5]"
)
@click.option("--starts", type=click.IntRange(0), help="Fresh processes for the footprint. [3, quick 1]")
@click.option("--against", help="Compare this code with a revision or a checkout, and exit 1 if it is worse.")
@click.option("--date", help="The date that the page shows. Default: none.")
@click.option("--page", "page_path", type=click.Path(path_type=Path), help="The file of the page. [docs/benchmarks.md]")
@click.option("--profile/--no-profile", "profiled", default=None, help="[with profile, quick without]")
def main(
    *,
    quick: bool,
    only: str | None,
    wanted: str | None,
    rounds: int | None,
    seconds: float | None,
    starts: int | None,
    against: str | None,
    date: str | None,
    page_path: Path | None,
    profiled: bool | None,
) -> None:
    """Measure gatepass and its peers in one run, and report which promises are met.

    A complete run writes docs/benchmarks.md. Any run with --page writes that file.
    """
    if against is not None:
        _compare(against, _workloads(_listed(wanted) or workloads.QUICK), rounds or comparison.RUNS, seconds or 1.5)
        return
    plan = Plan(
        candidates=_candidates(_listed(only) or (candidates.QUICK if quick else ())),
        workloads=_workloads(_listed(wanted) or (workloads.QUICK if quick else ())),
        rounds=rounds or (2 if quick else 3),
        window_s=seconds or (1.5 if quick else 2.0),
        starts=starts if starts is not None else (1 if quick else 3),
        whole_footprint=frozenset(("gatepass",)) if quick else WHOLE_FOOTPRINT,
    )
    began_s, machine_at_start = time.monotonic(), machine()
    if not quick:
        with suppress(SetupFailed):
            fetch_nginx()
    try:
        with rig.running() as running_rig:
            outcomes = series.run(plan, running_rig)
            profiles = profile.measured(running_rig) if profiled or (profiled is None and not quick) else None
    except (SetupFailed, NotEnoughCores) as error:
        raise click.ClickException(str(error)) from error
    figures = series.figures(outcomes)
    results = promises.check(figures)
    document = {
        "command": _command(quick, rounds=rounds, seconds=seconds, starts=starts),
        "date": date,
        "machine": machine_at_start,
        "commit": commit(),
        "source": source(),
        "versions": versions(),
        "rounds": plan.rounds,
        "window_s": plan.window_s,
        "took_s": round(time.monotonic() - began_s),
        "candidates": {name: outcome.document() for name, outcome in outcomes.items()},
        "promises": [report.promise_document(result) for result in results],
        "profile": profiles,
        "soak": _read("soak"),
    }
    written = _write(document, "quick" if quick else "part" if only or wanted else "bench")
    print(report.report(figures, results, outcomes, plan.workloads))
    print(f"\n{document['took_s']} s; all figures: {written}")
    page_document = page.published(document, figures, outcomes)
    if page_path or not (quick or only or wanted):
        (page_path or PAGE).write_text(page.markdown(page_document), encoding="utf-8")
    if not (page_path or quick or only or wanted):
        PUBLISHED.write_text(json.dumps(page_document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    faults = [f"{name}: not so: {fault}" for name, outcome in outcomes.items() for fault in outcome.faults]
    if faults:
        raise click.ClickException("; ".join(faults))


def _compare(against: str, wanted: tuple[workloads.Workload, ...], runs: int, window_s: float) -> None:
    began_s, load = time.monotonic(), machine()["load before the run"]
    try:
        old = comparison.checkout(against)
        with rig.running() as running_rig:
            outcomes = comparison.run(old, running_rig, wanted, runs, window_s)
    except (SetupFailed, NotEnoughCores) as error:
        raise click.ClickException(str(error)) from error
    found = comparison.compared(outcomes, wanted)
    print("\n".join(comparison.table(outcomes, found)))
    print(f"\n{runs} alternating runs of {old.name} and this code, medians; load before them {load}")
    print(f"{time.monotonic() - began_s:.0f} s")
    worse = comparison.failures(outcomes, found, wanted)
    if worse:
        raise click.ClickException("worse: " + "; ".join(worse))
    print(f"no worse: no median by more than {comparison.ALLOWED:.0%} and the spread")


def _command(quick: bool, **given: float | None) -> str:
    """Return the command of this run, with the options that change the figures."""
    options = " ".join(f"--{name} {value:g}" for name, value in given.items() if value is not None)
    command = "make bench-quick" if quick else "make bench"
    return f'{command} BENCH="{options}"' if options else command


def _listed(names: str | None) -> tuple[str, ...]:
    return tuple(name for name in (names or "").split(",") if name)


def _workloads(names: tuple[str, ...]) -> tuple[workloads.Workload, ...]:
    known = [workload.name for workload in workloads.WORKLOADS]
    if unknown := sorted(set(names).difference(known)):
        raise click.BadParameter(f"no workload is called {', '.join(unknown)}; there are {', '.join(known)}")
    return workloads.named(names) if names else workloads.WORKLOADS


def _candidates(names: tuple[str, ...]) -> list[Candidate]:
    return [candidate for candidate in CANDIDATES if not names or candidate.name in names]


def _read(name: str) -> dict[str, Any] | None:
    """Return the results of a separate run of the same code, or None."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document if document["source"] == source() else None


def _write(document: dict[str, Any], name: str) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
