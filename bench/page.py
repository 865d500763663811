"""docs/benchmarks.md. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.bar import Figures, Result
from bench.machine import BUSY
from bench.report import Table, bar_table, footprint_table, load_table, measured, miss, number, wanted
from bench.series import Outcome
from bench.soak import GROWTH
from bench.why import WHY
from bench.workloads import Workload


def markdown(
    figures: Figures,
    results: Sequence[Result],
    outcomes: Mapping[str, Outcome],
    workloads: Iterable[Workload],
    document: Mapping[str, Any],
) -> str:
    """The page; `document` is what the JSON file holds."""
    names = list(outcomes)
    lines = [*_head(document), *_against(outcomes, document), "", "## The bar", "", *_bar_words(results), ""]
    lines += [*_grid(bar_table(results)), "", "## The figures", "", *READING]
    for workload in workloads:
        table = load_table(figures, workload, names)
        if len(table) > 1:
            lines += ["", f"### {workload.name}", "", _sentence(workload.says), "", *_grid(table)]
    lines += ["", "### Fresh processes", "", FRESH, "", *_grid(footprint_table(figures, names))]
    lines += [*_profile(document.get("profile")), *_curves(document.get("curves"))]
    lines += [*_workers(document.get("workers")), *_soak(document.get("soak"))]
    return "\n".join(lines) + "\n"


READING = (
    "Medians over the rounds of one run, in which the candidates take turns. Read ratios, not absolute figures:",
    "another machine has others.",
    "",
    "- `CPU µs`: what the gateway's core spent per event of a stream, else per request. It is the figure that",
    "  survives a busy machine.",
    "- `gateway core`, `rig core`: how busy each core was. Where the rig's is near 1.00, the rig was the limit and not",
    "  the gateway: then compare the CPU, not the rate. A gateway that is not at its limit also joins fewer events in",
    "  one write and spends more on each.",
    "- `delay`: from the upstream's write of an event to the client's read of it. `TTFT added`: the time to the first",
    "  event without what the upstream itself took. The promises of both are of what a gateway adds: without what",
    "  `direct` has.",
    "- `errors`: replies that were no 200 or did not end, over all rounds.",
    "- nginx without buffering, which event streams need, copies large replies in small pieces: to be faster than it",
    "  with embeddings says something about this setting only.",
    "- `street` in the profile: what hands a request from stage to stage, and whatever no other row names.",
    "- `direct` can be slower than a gateway that joins events: the load generator then reads fewer and larger pieces.",
    "- None of the others checks a key by hash, fetches a token or writes a line per request here; gatepass does.",
)
FRESH = (
    "Ready: from the start of the process to the first answered chat. Idle: the proportional set size half a second "
    "later. A slow stream: what each of 1,000 adds, an event a second. Peak: how many times its body a 4 MB request "
    "adds, one after the other."
)


def _head(document: Mapping[str, Any]) -> list[str]:
    machine, took_min = document["machine"], document["took_s"] / 60
    when = f" on {document['date']}" if document["date"] else ""
    told = [f"{machine['cores']} cores of {machine['cpu']}", f"Linux {machine['kernel']}"]
    told += [f"Python {machine['python']}", f"nginx {machine['nginx']}"]
    lines = [
        "# Benchmarks",
        "",
        f"Written by `{document['command']}`: do not edit. bench/README.md says how the rig works.",
        "",
        f"Measured{when} on {', '.join(told)}; `{document['source']}` stands for the code in src/",
        "(`.venv/bin/python -m bench.machine` says what stands for that of a checkout).",
        f"Rounds: {document['rounds']}, with windows of {document['window_s']:g} s; {took_min:.0f} minutes in all.",
        "The gateway has one core, the upstream and the load generator share the other.",
    ]
    load = machine["load before the run"]
    if load > BUSY:
        lines += [
            "",
            f"**The machine had other work before the run (load {load:g}): these figures are noisy.**",
        ]
    return lines


def _against(outcomes: Mapping[str, Outcome], document: Mapping[str, Any]) -> list[str]:
    lines = [""]
    for name, outcome in outcomes.items():
        found = document["versions"].get(name.removesuffix("-tls").removesuffix("-piped"), {})
        tail = f" ({', '.join(f'{library} {version}' for library, version in found.items())})" if found else ""
        absent = f". **Not measured: {outcome.absent}**" if outcome.absent else ""
        lines.append(f"- `{name}`: {outcome.says}{tail}{absent}")
    return lines


def _bar_words(results: Sequence[Result]) -> list[str]:
    missed = [result for result in results if result.met is False]
    unknown = [result for result in results if result.met is None]
    words = [f"{len(results) - len(missed) - len(unknown)} of {len(results)} promises are met."]
    for result in sorted(missed, key=lambda one: -one.by):
        bar, value = result.bar, measured(result)
        words.append(
            f"- Missed: {bar.work}, {bar.measure}: {value} {bar.unit} where {wanted(result)} is wanted, {miss(result)}."
        )
        if (why := WHY.get((bar.work, bar.measure))) is not None:
            words.append(f"  {why}")
    words += [
        f"- By CPU alone: {one.bar.work}, {one.bar.measure}: {number(one.by_cpu)} {one.bar.unit}. The rig was the "
        "limit there, which flatters whoever needs more CPU."
        for one in results
        if one.by_cpu is not None
    ]
    words += [f"- Not measured: {one.bar.work}, {one.bar.measure}, {wanted(one)}." for one in unknown]
    return [words[0], *([""] if words[1:] else []), *words[1:]]


def _grid(table: Table) -> list[str]:
    head, *rows = [f"| {' | '.join(row)} |" for row in table]
    return [head, "|" + "---|" * len(table[0]), *rows]


def _profile(profile: Mapping[str, Any] | None) -> list[str]:
    if profile is None:
        return []
    lines = ["", "## Where the time goes", "", *PROFILE]
    if profile.get("absent"):
        return [*lines, "", f"Not taken: {profile['absent']}"]
    for part in profile["parts"]:
        table = [
            ["stage", "µs", "share"],
            *([name, f"{us:.1f}", f"{us / part['us']:.0%}"] for name, us in part["stages"]),
        ]
        lines += [
            "",
            f"### {part['says']}: {part['us']:.1f} µs, {part['kernel']:.0%} of it in the kernel",
            "",
            *_grid(table),
        ]
    return lines


def _curves(curves: Mapping[str, Any] | None) -> list[str]:
    if curves is None:
        return []
    lines = [
        "",
        "## How it grows",
        "",
        "A run of its own, `make bench-curves`: gatepass against nginx; bodies 4 at a time.",
    ]
    for title, table in curves["tables"].items():
        lines += ["", f"### {title.capitalize()}", "", *_grid(table)]
    return lines


def _workers(workers: Mapping[str, Any] | None) -> list[str]:
    if workers is None:
        return []
    return ["", "## With workers", "", *WORKERS, "", *_grid(workers["table"])]


def _soak(soak: Mapping[str, Any] | None) -> list[str]:
    """At rest, first, after a third, after two thirds, last."""
    if soak is None:
        return []
    rests = soak["rests"]
    shown = [rests[at * (len(rests) - 1) // 3] for at in range(4)]
    head = ["after s", "MB", "file descriptors", "connections", "requests", "events", "errors"]
    table = [head, *([f"{one[name]:,}" for name in one] for one in shown)]
    verdict = "flat" if soak["flat"] else "**not flat**"
    words = (
        f"A run of its own, `make bench-soak`: everything in turn; between two rounds, at rest, memory is {verdict}: "
        f"the median of the last third is at most {GROWTH:.0%} above that of the third before it."
    )
    return ["", "## Over time", "", words, "", *_grid(table)]


WORKERS = (
    "A run of its own, `make bench-workers`. Here gatepass has both cores, also the one on which the upstream and the",
    "load run: what these took stands in the last column but one, and is missing to twice the rate.",
)

PROFILE = (
    "CPU of the gateway's core, sampled by py-spy under load and shared out by the part of gatepass (or the library",
    "below uvicorn) that was at work; `make bench-profile` prints it with the functions.",
)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
