"""The two columns as Markdown: the counts of each client, and a line for each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.e2e.quirks.assessment import Mark
from tests.e2e.quirks.measurement import CLIENTS, Side, Verdicts
from tests.e2e.quirks.row import Row, Way

CHAT: tuple[Way, ...] = ("plain", "raw", "helper")


def cell(row: Row, verdicts: Verdicts) -> str:
    """A mark for each way: a whole answer, a stream event by event, a stream by the helper; or for vectors one."""
    ways: tuple[Way, ...] = ("embed",) if "embed" in row.ways else CHAT
    found = (verdicts.get((row.model, way)) for way in ways)
    return "".join("·" if verdict is None else verdict.mark for verdict in found)


def lines(rows: Sequence[Row], raw: Side, through: Side) -> Iterator[str]:
    titles = [client.title for client in CLIENTS if client.title in raw.seen]
    yield f"| # | the upstream | {' | '.join(titles)} |"
    yield f"|---|---|{'---|' * len(titles)}"
    for row in rows:
        cells = (f"`{cell(row, raw.seen[title])} {cell(row, through.seen[title])}`" for title in titles)
        yield f"| {row.quirk} | {row.says} | {' | '.join(cells)} |"


def summary(raw: Side, through: Side) -> Iterator[str]:
    """For each client how often it got what: the table of docs/quirks.md."""
    yield "| SDK | direct: right | error | wrong, no error | empty, no error | through gatepass: right | not right |"
    yield "|---|---|---|---|---|---|---|"
    for title, verdicts in raw.seen.items():
        straight = Counter(verdict.mark for verdict in verdicts.values())
        served = Counter(verdict.mark for verdict in through.seen[title].values())
        counts = [straight[mark] for mark in (Mark.RIGHT, Mark.ERROR, Mark.WRONG, Mark.EMPTY)]
        counts += [served[Mark.RIGHT], served.total() - served[Mark.RIGHT]]
        yield f"| {title} | {' | '.join(map(str, counts))} |"
