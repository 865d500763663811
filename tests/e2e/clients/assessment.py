"""What a client made of a case: right, an error, wrong without an error, or nothing and no error."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any

from tests.e2e.clients.scenario import TALKS, Case, Right, right
from tests.e2e.quirks.assessment import Mark, Verdict
from tests.integration.strict_azure import USAGE

Seen = Mapping[str, Any]
"""What a runner printed of one case."""
NOTHING = {field.name: None for field in fields(Right)}


def judged(case: Case, seen: Seen, shows: Collection[str]) -> Verdict:
    """`shows`: what can be seen with this client, of `finish` and `total`."""
    if seen["error"] is not None:
        error = seen["error"]
        return Verdict(Mark.ERROR, f"{error['class']} {error['status'] or ''}: {error['message'][:300]}")
    if all(not seen[name] for name in NOTHING):
        return Verdict(Mark.EMPTY, "nothing, and no error")
    why = "; ".join(_faults(case, seen, shows))
    return Verdict(Mark.WRONG, why) if why else Verdict(Mark.RIGHT)


def _faults(case: Case, seen: Seen, shows: Collection[str]) -> Iterator[str]:
    wanted = right(case)
    for name in NOTHING:
        expected, got = getattr(wanted, name), seen[name]
        if got != expected and (name != "finish" or name in shows):
            yield f"{name} {str(got)[:300]}, not {str(expected)[:300]}"
    if "total" in shows and case.kind in TALKS and seen["total"] != USAGE["total_tokens"]:
        yield f"{seen['total']} tokens, not {USAGE['total_tokens']}"
    if seen["invalid"]:
        yield f"{len(seen['invalid'])} against its types: {seen['invalid'][0]}"
