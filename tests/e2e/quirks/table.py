"""The results as Markdown tables: the counts of each client, and a line for each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.e2e.quirks.assessment import Outcome
from tests.e2e.quirks.measurement import CLIENTS, Assessments, PathResults
from tests.e2e.quirks.row import Mode, Row

CHAT: tuple[Mode, ...] = ("plain", "raw", "helper")


def cell(row: Row, assessments: Assessments) -> str:
    """Return one character for each mode of a chat, or one for embeddings."""
    modes: tuple[Mode, ...] = ("embed",) if "embed" in row.modes else CHAT
    found = (assessments.get((row.model, mode)) for mode in modes)
    return "".join("·" if assessment is None else assessment.outcome for assessment in found)


def lines(rows: Sequence[Row], direct: PathResults, via_gatepass: PathResults) -> Iterator[str]:
    titles = [client.title for client in CLIENTS if client.title in direct.assessments]
    yield f"| # | the upstream | {' | '.join(titles)} |"
    yield f"|---|---|{'---|' * len(titles)}"
    for row in rows:
        cells = (
            f"`{cell(row, direct.assessments[title])} {cell(row, via_gatepass.assessments[title])}`" for title in titles
        )
        yield f"| {row.quirk} | {row.description} | {' | '.join(cells)} |"


def summary(direct: PathResults, via_gatepass: PathResults) -> Iterator[str]:
    """Yield the table of docs/quirks.md: the number of each outcome, by client."""
    yield "| SDK | direct: right | error | wrong, no error | empty, no error | through gatepass: right | not right |"
    yield "|---|---|---|---|---|---|---|"
    for title, assessments in direct.assessments.items():
        direct_counts = Counter(assessment.outcome for assessment in assessments.values())
        gatepass_counts = Counter(assessment.outcome for assessment in via_gatepass.assessments[title].values())
        counts = [direct_counts[outcome] for outcome in (Outcome.RIGHT, Outcome.ERROR, Outcome.WRONG, Outcome.EMPTY)]
        counts += [gatepass_counts[Outcome.RIGHT], gatepass_counts.total() - gatepass_counts[Outcome.RIGHT]]
        yield f"| {title} | {' | '.join(map(str, counts))} |"
