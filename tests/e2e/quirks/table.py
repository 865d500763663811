"""The two columns as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.e2e.quirks.row import Row, Way
from tests.e2e.quirks.street import CLIENTS, Side, Verdicts
from tests.e2e.quirks.verdict import Mark

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
    yield "| of all calls | straight at the upstream | through gatepass |"
    yield "|---|---|---|"
    told = {Mark.RIGHT: "right", Mark.ERROR: "error", Mark.WRONG: "wrong, no error", Mark.EMPTY: "empty, no error"}
    for mark, title in told.items():
        yield f"| `{mark}` {title} | {raw.count(mark)} | {through.count(mark)} |"
    yield f"| requests at the upstream | {raw.requests.total()} | {through.requests.total()} |"
