"""Compare the result of a client with the expected one: right, an error, wrong, or empty."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.e2e.quirks.row import Answer, Failure, Row, vector_of

Result = Mapping[str, Any]
"""The JSON object that a client printed for one call."""


class Outcome(StrEnum):
    RIGHT = "✓"
    """The right reply, or the right error if the upstream failed."""
    ERROR = "!"
    """An error instead of a reply, or an error without the upstream's message."""
    WRONG = "✗"
    """A wrong reply without an error."""
    EMPTY = "∅"
    """An empty reply without an error."""


@dataclass(frozen=True, slots=True)
class Assessment:
    outcome: Outcome
    reason: str = ""


def assess(row: Row, result: Result) -> Assessment:
    expected = row.expected
    if isinstance(expected, Failure):
        return _assess_failure(expected, result)
    if result["error"] is not None:
        return Assessment(Outcome.ERROR, _error_text(result["error"]))
    if _is_empty(result):
        return Assessment(Outcome.EMPTY, "nothing, and no error")
    faults = _faults_of(expected, result) if isinstance(expected, Answer) else _faults_of_vectors(row, result)
    return _assessment(Outcome.WRONG, faults)


def _assess_failure(expected: Failure, result: Result) -> Assessment:
    if result["error"] is not None:
        return _assessment(Outcome.ERROR, _faults_of_error(expected, result["error"]))
    if _is_empty(result):
        return Assessment(Outcome.EMPTY, "nothing, and no error")
    return Assessment(Outcome.WRONG, f"no error, but {result['vectors'] or result['text'] or result['calls']}")


def _assessment(outcome: Outcome, faults: Iterator[str]) -> Assessment:
    reason = "; ".join(faults)
    return Assessment(outcome, reason) if reason else Assessment(Outcome.RIGHT)


def _error_text(error: Result) -> str:
    return f"{error['class']} {error['status'] or ''}: {error['message'][:200]}"


def _is_empty(result: Result) -> bool:
    return not result["text"] and not result["calls"] and not any(result["vectors"] or ())


def _faults_of_error(expected: Failure, error: Result) -> Iterator[str]:
    if expected.statuses and error["status"] not in expected.statuses:
        yield f"status {error['status']}, not {expected.statuses}: {error['message'][:200]}"
    if expected.words is not None and expected.words.lower() not in error["message"].lower():
        yield f"{expected.words!r} is not in {error['message'][:200]!r}"
    for name in ("message", "code", "retry_after", "should_retry"):
        wanted = getattr(expected, name)
        if wanted is not None and error[name] != wanted:
            yield f"{name} {error[name]!r}, not {wanted!r}"


def _faults_of(expected: Answer, result: Result) -> Iterator[str]:
    # JSON.stringify omits undefined members
    if (result["text"] or "") != expected.text:
        yield f"text {result['text']!r}"
    if not _same_calls(result["calls"] or (), expected.calls):
        yield f"calls {result['calls']!r}"
    if result.get("finish") != expected.finish:
        yield f"finish {result.get('finish')!r}"
    if result.get("role") not in (None, "assistant"):
        yield f"role {result.get('role')!r}"
    if expected.total_tokens is not None and result["total"] != expected.total_tokens:
        yield f"usage {result['total']!r}"


def _same_calls(result: Sequence[Result], expected: Sequence[tuple[str, str]]) -> bool:
    made = [(call["name"], _parsed(call["arguments"])) for call in result]
    return made == [(name, json.loads(arguments)) for name, arguments in expected]


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments)
    except (TypeError, ValueError):
        return None


def _faults_of_vectors(row: Row, result: Result) -> Iterator[str]:
    wanted = [vector_of(text) for text in row.request_body("embed")["input"]]
    if result["vectors"] != wanted:
        yield f"{len(result['vectors'])} vectors for {len(wanted)} texts, {str(result['vectors'])[:80]}"
