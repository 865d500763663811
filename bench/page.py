"""docs/benchmarks.md and its figures. Pure. `python -m bench.page` writes the page again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.candidates import CANDIDATES
from bench.machine import BUSY
from bench.paths import PAGE, PUBLISHED
from bench.promises import AT_LIMIT, IDLE, Figures, Result, check
from bench.reasons import REASONS
from bench.report import Table, footprint_table, load_table, number, promise_table, wanted
from bench.sample import Sample
from bench.series import Outcome
from bench.soak import GROWTH
from bench.workloads import WORKLOADS

HEAD = ("command", "date", "machine", "commit", "source", "versions", "rounds", "window_s", "took_s")
OMITTED_FIGURES = frozenset({"gateway_cpu", "rig_cpu", "memory_mb", "errors"})
PEERS = ("naive", "litellm", "nginx")
OTHERS = ("nginx", "openai-forward", "portkey", "litellm")
COMPARED = frozenset({"chat-64", "paced-50", "agent-8"})
SHOWN = frozenset({"chat-1", "chat-64", "burst-32", "paced-500", "embeddings-8"})
"""The workloads whose tables the page has: those of the summary. The promises name the others."""

READING = (
    "- Figures are medians over the rounds of one run, in which the candidates take turns. Compare ratios: another",
    "  machine has other absolute figures.",
    "- **CPU µs** is the CPU time of the gateway for one request, or for one event of a stream. It is the most",
    "  reliable figure on a busy machine.",
    "- **Delay** is the time from the upstream's write of an event to the client's read. **TTFT added** is the time to",
    "  the first event without the time that the upstream itself took.",
    "- **Rig at its limit**: the load generator used its whole core and the gateway did not. Then compare the CPU, not",
    "  the rate.",
    "- Only gatepass checks a key by its hash, fetches tokens and writes a log line for each request. The other",
    "  gateways do less work.",
)
FRESH = (
    "- **Ready**: from the start of the process to the first answered chat",
    "- **Idle**: the proportional set size half a second later",
    "- **Slow stream**: the memory of one of 1,000 streams with an event each second",
    "- **Peak**: the memory that one 4 MB request adds, as a multiple of its body",
)


def published(document: Mapping[str, Any], figures: Figures, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return the figures of a run for the page: medians instead of samples, four moments of the soak."""
    loads: dict[str, dict[str, Any]] = {}
    for (name, workload), sample in figures.loads.items():
        loads.setdefault(name, {})[workload] = sample.document()
    footprints: dict[str, dict[str, float]] = {}
    for (name, figure), value in figures.footprints.items():
        footprints.setdefault(name, {})[figure] = round(value, 3)
    soak = document["soak"]
    if soak is not None:
        rests = soak["rests"]
        soak = {"flat": soak["flat"], "rests": [rests[at * (len(rests) - 1) // 3] for at in range(4)]}
    return {
        **{name: document[name] for name in HEAD},
        "absent": {name: one.absent for name, one in outcomes.items() if one.absent},
        "loads": loads,
        "footprints": footprints,
        "soak": soak,
    }


def figures_of(document: Mapping[str, Any]) -> Figures:
    """Return the medians of a published document."""
    return Figures(
        {(name, at): Sample(**one) for name, found in document["loads"].items() for at, one in found.items()},
        {(name, figure): value for name, found in document["footprints"].items() for figure, value in found.items()},
    )


def markdown(document: Mapping[str, Any]) -> str:
    """Return the page of a published document."""
    figures = figures_of(document)
    results = check(figures)
    lines = ["# Benchmarks", "", *_introduction(document), "", "## What gatepass costs", "", *_costs(figures)]
    lines += ["", "## Compared with others", "", *_compared(figures), "", "## Promises", "", *_promises(results)]
    lines += [
        "",
        "## The candidates",
        "",
        *_grid(_candidates(document)),
        "",
        "## How to read the figures",
        "",
        *READING,
    ]
    lines += ["", "## The main workloads", *_workloads(figures)]
    lines += ["", "## Start and memory", "", *FRESH, ""]
    lines += _grid(footprint_table(figures, [one.name for one in CANDIDATES]))
    lines += _soak(document["soak"])
    return "\n".join(lines) + "\n"


def _introduction(document: Mapping[str, Any]) -> list[str]:
    machine, when = document["machine"], f" on {document['date']}" if document["date"] else ""
    lines = [
        "This page is for engineers who ask what gatepass costs, and how it compares with other gateways. The command",
        "below writes it, so do not edit it. `bench/README.md` describes the rig.",
        "",
        f"- Measured{when} with `{document['command']}`: {document['rounds']} rounds with windows of",
        f"  {document['window_s']:g} s, {document['took_s'] / 60:.0f} minutes",
        f"- {machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, Python {machine['python']}, nginx",
        f"  {machine['nginx']}",
        "- The gateway has one core. The upstream and the load generator share the other.",
        f"- Commit `{document['commit']}`. The code in src/ has the checksum `{document['source']}`.",
        "  `.venv/bin/python -m bench.machine` prints that of a checkout. Later code has other figures.",
    ]
    load = machine["load before the run"]
    return lines + [f"- **The machine had a load of {load:g} before the run. The figures are noisy.**"] * (load > BUSY)


def _costs(figures: Figures) -> list[str]:
    """Return five lines, or a note if the run has not all these figures."""
    needed = {("gatepass", at) for at in ("chat-64", "chat-1", "paced-500", "burst-32", "embeddings-8")}
    needed |= {("nginx", "chat-1"), ("direct", "paced-500"), *((name, "chat-64") for name in PEERS)}
    kept = {("gatepass", name) for name in ("ready_s", "idle_mb", "stream_kib", "peak_bodies")}
    if not (needed <= set(figures.loads) and kept <= set(figures.footprints)):
        return ["This run measured only a part of the workloads."]
    chat, alone, paced, burst, vectors = (
        figures.loads["gatepass", at] for at in ("chat-64", "chat-1", "paced-500", "burst-32", "embeddings-8")
    )
    direct, peer = figures.loads["direct", "paced-500"], figures.loads["nginx", "chat-1"]
    rates = {name: chat.requests_s / figures.loads[name, "chat-64"].requests_s for name in PEERS}
    own = {name: figures.footprints["gatepass", name] for _, name in kept}
    alone_ms, peer_ms = alone.latency_p50_us / 1000, peer.latency_p50_us / 1000
    delay_ms = (paced.delay_p50_us - direct.delay_p50_us) / 1000
    first_ms = (paced.ttft_added_p50_us - direct.ttft_added_p50_us) / 1000
    return [
        f"- **A small chat** costs {chat.cpu_us:.0f} µs of CPU: one core serves {chat.requests_s:,.0f} requests/s.",
        f"  A single request takes {alone_ms:.2f} ms through gatepass and {peer_ms:.2f} ms through nginx.",
        f"- **A streamed event** costs {paced.cpu_us:.1f} µs of CPU in 500 streams, {burst.cpu_us:.1f} µs in a burst.",
        f"  gatepass delays it by {delay_ms:.2f} ms, and the first event of a stream by {first_ms:.2f} ms (medians).",
        f"- **Embeddings** of 64 KB in and 380 KB out cost {vectors.cpu_us:.0f} µs of CPU: one core relays",
        f"  {vectors.mb_s:,.0f} MB/s.",
        f"- **Memory**: {own['idle_mb']:.0f} MB idle, {own['stream_kib']:.0f} KiB for each slow stream, and",
        f"  {own['peak_bodies']:.1f} times the body of a 4 MB request. The start takes {own['ready_s']:.1f} s.",
        f"- **Compared with others**, small chats/s on one core: {rates['naive']:.0f} times FastAPI with httpx,",
        f"  {rates['litellm']:.0f} times LiteLLM, {rates['nginx']:.0%} of nginx.",
    ]


def _compared(figures: Figures) -> list[str]:
    """Return the CPU of a request or an event of each gateway, in µs and as a multiple of gatepass's."""
    rows = [["CPU µs", "gatepass", *OTHERS]]
    for workload in WORKLOADS:
        if workload.name in COMPARED and ("gatepass", workload.name) in figures.loads:
            own_us = figures.loads["gatepass", workload.name].cpu_us
            found = [figures.loads.get((name, workload.name)) for name in OTHERS]
            cells = ["" if one is None else f"{one.cpu_us:,.0f} ({number(one.cpu_us / own_us)} x)" for one in found]
            rows.append([workload.description, f"{own_us:,.0f}", *cells])
    return _grid(rows) if len(rows) > 1 else ["This run measured none of these workloads."]


def _promises(results: Sequence[Result]) -> list[str]:
    missed = [result for result in results if result.met is False]
    unknown = [result for result in results if result.met is None]
    met = len(results) - len(missed) - len(unknown)
    lines = [f"{met} of {len(results)} promises are met. `x nginx` means times the figure of nginx.", ""]
    lines += _grid(promise_table(results))
    reasons: dict[str, list[str]] = {}
    for result in missed:
        if (reason := REASONS.get((result.promise.work, result.promise.measure))) is not None:
            reasons.setdefault(reason, []).append(f"{result.promise.work}, {result.promise.measure}")
    notes = [f"- {'; '.join(works)}: {reason}" for reason, works in reasons.items()]
    notes += [
        f"- {one.promise.work}, {one.promise.measure}: the rig was at its limit. By CPU the figure is "
        f"{number(one.by_cpu)} {one.promise.unit}."
        for one in results
        if one.by_cpu is not None
    ]
    notes += [f"- Not measured: {one.promise.work}, {one.promise.measure}, {wanted(one)}." for one in unknown]
    return [*lines, "", "Why promises are missed, and other notes:", "", *notes] if notes else lines


def _candidates(document: Mapping[str, Any]) -> Table:
    rows = [["name", "what", "versions"]]
    measured = {*document["loads"], *document["footprints"], *document["absent"]}
    for one in CANDIDATES:
        if one.name in measured:
            found = document["versions"].get(one.name, {})
            absent = f"; **not measured: {document['absent'][one.name]}**" if one.name in document["absent"] else ""
            versions = ", ".join(f"{library} {version}" for library, version in found.items())
            rows.append([f"`{one.name}`", one.description + absent, versions])
    return rows


def _workloads(figures: Figures) -> Iterator[str]:
    names = [one.name for one in CANDIDATES]
    for workload in WORKLOADS:
        if workload.name not in SHOWN:
            continue
        table = load_table(figures, workload, names, OMITTED_FIGURES)
        if len(table) == 1:
            continue
        samples = {name: figures.loads[name, workload.name] for name in names if (name, workload.name) in figures.loads}
        limited = [f"`{name}`" for name, one in samples.items() if one.rig_cpu >= AT_LIMIT and one.gateway_cpu < IDLE]
        failed = [f"`{name}` {one.errors:g}" for name, one in samples.items() if one.errors]
        yield from ("", f"### {_sentence(workload.description)}", "", *_grid(table))
        notes = [f"Rig at its limit: {', '.join(limited)}."] * bool(limited)
        notes += [f"Replies that failed or did not end: {', '.join(failed)}."] * bool(failed)
        yield from ("", " ".join(notes)) if notes else ()


def _soak(soak: Mapping[str, Any] | None) -> list[str]:
    if soak is None:
        return []
    trend = "stays flat" if soak["flat"] else "**grows**"
    last = soak["rests"][-1]
    return [
        "",
        "## Ten minutes of load",
        "",
        f"A separate run, `make bench-soak`: {last['requests']:,} requests of mixed load, {last['errors']:,} errors.",
        f"Memory at rest {trend} at {last['memory_mb']:,.0f} MB: the last third is at most {GROWTH:.0%} above the",
        "middle third.",
    ]


def _grid(table: Table) -> list[str]:
    head, *rows = [f"| {' | '.join(row)} |" for row in table]
    return [head, "|" + "---|" * len(table[0]), *rows]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


if __name__ == "__main__":
    PAGE.write_text(markdown(json.loads(PUBLISHED.read_text(encoding="utf-8"))), encoding="utf-8")
