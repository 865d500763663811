"""Compare the result of a client with the expected one: right, an error, wrong, or empty."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any

from tests.e2e.clients.scenario import GENERATION_KINDS, Expected, Scenario, expected
from tests.e2e.quirks.assessment import Assessment, Outcome
from tests.integration.strict_azure import USAGE

Result = Mapping[str, Any]
"""The JSON object that a runner printed for one scenario."""
NOTHING = {field.name: None for field in fields(Expected)}


def assess(scenario: Scenario, result: Result, reports: Collection[str]) -> Assessment:
    """Assess one result. `reports`: which of `finish` and `total` this client reports."""
    if result["error"] is not None:
        error = result["error"]
        return Assessment(Outcome.ERROR, f"{error['class']} {error['status'] or ''}: {error['message'][:300]}")
    if all(not result[name] for name in NOTHING):
        return Assessment(Outcome.EMPTY, "nothing, and no error")
    reason = "; ".join(_faults(scenario, result, reports))
    return Assessment(Outcome.WRONG, reason) if reason else Assessment(Outcome.RIGHT)


def _faults(scenario: Scenario, result: Result, reports: Collection[str]) -> Iterator[str]:
    right = expected(scenario)
    for name in NOTHING:
        wanted, got = getattr(right, name), result[name]
        if got != wanted and (name != "finish" or name in reports):
            yield f"{name} {str(got)[:300]}, not {str(wanted)[:300]}"
    if "total" in reports and scenario.kind in GENERATION_KINDS and result["total"] != USAGE["total_tokens"]:
        yield f"{result['total']} tokens, not {USAGE['total_tokens']}"
    if result["invalid"]:
        yield f"{len(result['invalid'])} against its types: {result['invalid'][0]}"
