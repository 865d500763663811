"""Shared code of the runners: run the scenarios of the file INPUT, write their results to stdout.

The runner configures its client with OPENAI_BASE_URL and OPENAI_API_KEY only, or with those of Anthropic.
"""

import faulthandler
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_S = 20.0
STUCK_S = 110.0
"""After this time the process prints its stacks and exits."""
AT_ONCE = 6

Scenario = dict[str, Any]


@dataclass(slots=True)
class Result:
    """`calls`: `{"id", "name", "arguments"}` of all rounds in order. `total`: the tokens that the client reports."""

    text: str | None = None
    calls: list[dict[str, Any]] | None = None
    finish: str | None = None
    role: str | None = None
    models: list[str] | None = None
    vectors: list[Any] | None = None
    ranks: list[Any] | None = None
    total: int | None = None
    answer: Any = None
    """The whole answer, as the client built it."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    """Differences from the client's own types."""
    checked: int = 0
    """The number of replies and chunks that were validated."""
    error: dict[str, Any] | None = None

    def add_call(self, call_id: str | None, name: str, arguments: Any) -> None:
        self.calls = [*(self.calls or ()), {"id": call_id, "name": name, "arguments": arguments}]


Handler = Callable[[Scenario, Result], None]


def add(a: int, b: int, note: str) -> int:
    """The sum of two numbers."""
    return a + b


def error_fields(error: BaseException) -> dict[str, Any]:
    """Return what a user or a program can read from the error."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else {}
    headers = getattr(getattr(error, "response", None), "headers", {})
    return {
        "class": type(error).__name__,
        "message": str(error) or repr(error),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None) or inner.get("code"),
        "retry_after": headers.get("retry-after"),
        "should_retry": headers.get("x-should-retry"),
    }


@contextmanager
def recorded() -> Iterator[Result]:
    """Yield a result, and add the error that ends the block."""
    result = Result()
    try:
        yield result
    except Exception as error:  # noqa: BLE001 - every exception of the client is a result
        result.error = error_fields(error)


def read_scenarios() -> list[Scenario]:
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    scenarios: list[Scenario] = json.loads(Path(os.environ["INPUT"]).read_text())
    return scenarios


def write_results(results: Sequence[Result]) -> None:
    json.dump([asdict(item) for item in results], sys.stdout)


def run_all(handlers: Mapping[str, Handler], at_once: int = 1) -> None:
    """Run all scenarios, `at_once` at a time."""

    def run(scenario: Scenario) -> Result:
        with recorded() as result:
            handlers[scenario["kind"]](scenario, result)
        return result

    with ThreadPoolExecutor(at_once) as pool:
        write_results(list(pool.map(run, read_scenarios())))
