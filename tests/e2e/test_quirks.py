"""Every row of the list of quirks, through gatepass, with the real clients; straight at the upstream it is printed."""

from __future__ import annotations

import pytest

from tests.e2e.quirks.assessment import Mark
from tests.e2e.quirks.measurement import CLIENTS, Side, calls_of, measured
from tests.e2e.quirks.row import Row
from tests.e2e.quirks.rows import ROWS
from tests.e2e.quirks.table import lines, summary

HANDFUL = 6
"""More requests than calls that a row may cost: what is learned is learned once for all clients."""


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Side:
    raw, through = measured(tmp_path_factory.mktemp("quirks"))
    print("\n", "\n".join([*summary(raw, through), "", *lines(ROWS, raw, through)]), sep="")
    return through


def told(side: Side, row: Row) -> list[str]:
    """What went wrong in `row`, by client."""
    return [
        f"{title}, {way}: {verdict.mark} {verdict.why}"
        for title, verdicts in side.seen.items()
        for (model, way), verdict in verdicts.items()
        if model == row.model and verdict.mark is not Mark.RIGHT
    ]


def test_no_answer_is_empty_without_an_error(through: Side):
    assert through.count(Mark.EMPTY) == 0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.quirk}-{row.model}")
def test_every_client_gets_what_the_row_promises(through: Side, row: Row):
    assert told(through, row) == []


@pytest.mark.parametrize("row", [row for row in ROWS if row.repeats], ids=lambda row: row.model)
def test_no_client_repeats_what_the_upstream_forbids_to_repeat(through: Side, row: Row):
    assert through.requests[row.model] == sum(len(calls_of(client, [row])) for client in CLIENTS)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.route != "renewed" and row.is_lasting and "embed" not in row.ways],
    ids=lambda row: f"{row.quirk}-{row.model}",
)
def test_no_row_costs_more_than_a_handful_of_requests(through: Side, row: Row):
    calls = sum(len(calls_of(client, [row])) for client in CLIENTS)
    assert through.requests[row.model] <= calls + HANDFUL
