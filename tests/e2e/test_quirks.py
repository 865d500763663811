"""Every row of docs/quirks.md with the real clients through gatepass."""

import pytest

from tests.e2e.quirks.assessment import Outcome
from tests.e2e.quirks.measurement import CLIENTS, PathResults, calls_of, measure_via_gatepass
from tests.e2e.quirks.row import Row
from tests.e2e.quirks.rows import ROWS

MAX_EXTRA_REQUESTS = 9
"""Allowed requests of a row beyond the calls of one client. Its three calls begin together, so each learns up to three
rules for itself."""
MAX_LEARNERS = 3
"""Allowed clients with such requests: the first, and where its rules expire, within a minute, one or two later ones,
whose rules live an hour. All others use what one of these learned."""


@pytest.fixture(scope="module")
def via_gatepass(tmp_path_factory: pytest.TempPathFactory) -> PathResults:
    return measure_via_gatepass(tmp_path_factory.mktemp("quirks"))


def failures_of(side: PathResults, row: Row) -> list[str]:
    """Return the failures of `row`, by client."""
    return [
        f"{title}, {mode}: {assessment.outcome} {assessment.reason}"
        for title, assessments in side.assessments.items()
        for (model, mode), assessment in assessments.items()
        if model == row.model and assessment.outcome is not Outcome.RIGHT
    ]


def extra_requests(side: PathResults, row: Row) -> dict[str, int]:
    """Return how many more requests than calls the upstream received for `row`, by client."""
    return {client.title: side.requests[client.title][row.model] - len(calls_of(client, [row])) for client in CLIENTS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.quirk}-{row.model}")
def test_every_client_gets_the_expected_result(via_gatepass: PathResults, row: Row):
    assert failures_of(via_gatepass, row) == []


@pytest.mark.parametrize("row", [row for row in ROWS if row.repeats], ids=lambda row: row.model)
def test_no_client_retries_after_x_should_retry_false(via_gatepass: PathResults, row: Row):
    assert set(extra_requests(via_gatepass, row).values()) == {0}


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.route != "renewed" and row.is_lasting and "embed" not in row.modes],
    ids=lambda row: f"{row.quirk}-{row.model}",
)
def test_a_row_causes_few_extra_requests(via_gatepass: PathResults, row: Row):
    extra = extra_requests(via_gatepass, row)
    assert max(extra.values()) <= MAX_EXTRA_REQUESTS
    assert len([title for title, requests in extra.items() if requests]) <= MAX_LEARNERS


@pytest.mark.parametrize("title", [client.title for client in CLIENTS if client.runner == "ask_openai.py"])
def test_every_reply_chunk_and_error_is_valid_by_the_types_of_the_sdk(via_gatepass: PathResults, title: str):
    results = via_gatepass.results[title]
    assert {call: result["invalid"] for call, result in results.items() if result["invalid"]} == {}
    assert [call for call, result in results.items() if not result["checked"]] == []
