"""What a client made of an answer: right, an error, wrong without an error, or empty without an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.e2e.quirks.row import Answer, Failure, Row, Way, vector_of

Seen = Mapping[str, Any]
"""What a client printed of one call."""


class Mark(StrEnum):
    RIGHT = "✓"
    """The right answer, or where there is none the true error."""
    ERROR = "!"
    """An error where an answer was to be had, or one that does not tell what the upstream said."""
    WRONG = "✗"
    """Something else than the right answer, and no error."""
    EMPTY = "∅"
    """Nothing at all, and no error."""


@dataclass(frozen=True, slots=True)
class Verdict:
    mark: Mark
    why: str = ""


def judged(row: Row, way: Way, seen: Seen) -> Verdict:
    expected = row.expects(way)
    if isinstance(expected, Failure):
        return _failed(expected, seen)
    if seen["error"] is not None:
        return Verdict(Mark.ERROR, _told(seen["error"]))
    if _is_empty(seen):
        return Verdict(Mark.EMPTY, "nothing, and no error")
    faults = _faults_of(expected, seen) if isinstance(expected, Answer) else _faults_of_vectors(row, seen)
    return _verdict(Mark.WRONG, faults)


def _failed(expected: Failure, seen: Seen) -> Verdict:
    if seen["error"] is not None:
        return _verdict(Mark.ERROR, _faults_of_error(expected, seen["error"]))
    if _is_empty(seen):
        return Verdict(Mark.EMPTY, "nothing, and no error")
    return Verdict(Mark.WRONG, f"no error, but {str(seen['vectors'] or seen['text'] or seen['calls'])[:80]}")


def _verdict(mark: Mark, faults: Iterator[str]) -> Verdict:
    why = "; ".join(faults)
    return Verdict(mark, why) if why else Verdict(Mark.RIGHT)


def _told(error: Seen) -> str:
    return f"{error['class']} {error['status'] or ''}: {error['message'][:200]}"


def _is_empty(seen: Seen) -> bool:
    return not seen["text"] and not seen["calls"] and not any(seen["vectors"] or ())


def _faults_of_error(expected: Failure, error: Seen) -> Iterator[str]:
    if expected.statuses and error["status"] not in expected.statuses:
        yield f"status {error['status']}, not {expected.statuses}: {error['message'][:200]}"
    if expected.words is not None and expected.words.lower() not in error["message"].lower():
        yield f"{expected.words!r} is not in {error['message'][:200]!r}"
    for name in ("message", "code", "retry_after", "should_retry"):
        wanted = getattr(expected, name)
        if wanted is not None and error[name] != wanted:
            yield f"{name} {error[name]!r}, not {wanted!r}"


def _faults_of(expected: Answer, seen: Seen) -> Iterator[str]:
    # JavaScript writes no member for what it has none of
    if seen["text"] != expected.text:
        yield f"text {seen['text']!r}"
    if not _same_calls(seen["calls"], expected.calls):
        yield f"calls {seen['calls']!r}"
    if seen.get("finish") != expected.finish:
        yield f"finish {seen.get('finish')!r}"
    if seen.get("role") not in (None, "assistant"):
        yield f"role {seen.get('role')!r}"
    total = (seen["usage"] or {}).get("total_tokens")
    if expected.total_tokens is not None and total != expected.total_tokens:
        yield f"usage {total!r}"


def _same_calls(seen: Sequence[Sequence[str]], expected: Sequence[tuple[str, str]]) -> bool:
    return [name for name, _ in seen] == [name for name, _ in expected] and all(
        _parsed(got) == json.loads(wanted) for (_, got), (_, wanted) in zip(seen, expected, strict=True)
    )


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments)
    except (TypeError, ValueError):
        return None


def _faults_of_vectors(row: Row, seen: Seen) -> Iterator[str]:
    wanted = [vector_of(text) for text in row.asked("embed")["input"]]
    if seen["vectors"] != wanted:
        yield f"{len(seen['vectors'])} vectors for {len(wanted)} texts, {str(seen['vectors'])[:80]}"
