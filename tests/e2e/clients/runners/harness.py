"""What the runners share: the cases come on stdin, what was seen of each goes to stdout.

OPENAI_BASE_URL and OPENAI_API_KEY are all that a client is told of where it talks to.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

TIMEOUT_S = 20.0
STUCK_S = 90.0
"""After so long it says where it stands, and ends."""

Scenario = dict[str, Any]


@dataclass(slots=True)
class Result:
    """`calls` are `{"id", "name", "arguments"}`, in order, over all rounds; `total` are the tokens that it counted."""

    text: str | None = None
    calls: list[dict[str, Any]] | None = None
    finish: str | None = None
    models: list[str] | None = None
    vectors: list[Any] | None = None
    ranks: list[Any] | None = None
    total: int | None = None
    invalid: list[str] = field(default_factory=list)
    """What is not as the client's own types want it."""
    checked: int = 0
    """How many answers and chunks were held against them."""
    error: dict[str, Any] | None = None

    def add_call(self, call_id: str | None, name: str, arguments: Any) -> None:
        self.calls = [*(self.calls or ()), {"id": call_id, "name": name, "arguments": arguments}]


Handler = Callable[[Scenario, Result], None]


def add(a: int, b: int, note: str) -> int:
    """The sum of two numbers."""
    return a + b


def error_fields(error: BaseException) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "message": str(error) or repr(error),
        "status": getattr(error, "status_code", None),
    }


@contextmanager
def recorded() -> Iterator[Result]:
    """What is seen within the block, with the error that ends it."""
    result = Result()
    try:
        yield result
    except Exception as error:  # noqa: BLE001 - whatever comes out of the client is the finding
        result.error = error_fields(error)


def read_scenarios() -> list[Scenario]:
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    cases: list[Scenario] = json.load(sys.stdin)
    return cases


def write_results(results: Sequence[Result]) -> None:
    json.dump([asdict(item) for item in results], sys.stdout)


def run_all(handlers: Mapping[str, Handler]) -> None:
    """One case after the other."""
    results: list[Result] = []
    for scenario in read_scenarios():
        with recorded() as result:
            handlers[scenario["kind"]](scenario, result)
        results.append(result)
    write_results(results)
