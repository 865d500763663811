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

Told = dict[str, Any]


@dataclass(slots=True)
class Seen:
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

    def called(self, known: str | None, name: str, arguments: Any) -> None:
        self.calls = [*(self.calls or ()), {"id": known, "name": name, "arguments": arguments}]


Way = Callable[[Told, Seen], None]


def add(a: int, b: int, note: str) -> int:
    """The sum of two numbers."""
    return a + b


def complaint(error: BaseException) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "message": str(error) or repr(error),
        "status": getattr(error, "status_code", None),
    }


@contextmanager
def watched() -> Iterator[Seen]:
    """What is seen within the block, with the error that ends it."""
    seen = Seen()
    try:
        yield seen
    except Exception as error:  # noqa: BLE001 - whatever comes out of the client is the finding
        seen.error = complaint(error)


def asked() -> list[Told]:
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    cases: list[Told] = json.load(sys.stdin)
    return cases


def tell(seen: Sequence[Seen]) -> None:
    json.dump([asdict(one) for one in seen], sys.stdout)


def play(ways: Mapping[str, Way]) -> None:
    """One case after the other."""
    found: list[Seen] = []
    for told in asked():
        with watched() as seen:
            ways[told["kind"]](told, seen)
        found.append(seen)
    tell(found)
