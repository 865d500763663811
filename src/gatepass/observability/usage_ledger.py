"""The use of each day: requests and tokens by caller and model. `proxy/usage_store.py` keeps them in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gatepass.errors import GatepassError
from gatepass.observability.metrics import MAX_TOKENS, OTHER, Labels, placed
from gatepass.observability.observer import Observer, RequestRecord

DAY_S = 86_400
"""A day is a number: that of days since 1970 in UTC."""
DAYS = 30
"""The days that are shown, with today."""
COLUMNS = ("requests", "errors", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
MAX_ROWS = 2_000
"""The pairs of caller and model that a day tells apart. The others are added to one row, with OTHER for both."""

Rows = list[tuple[str, str, Sequence[int]]]
"""The caller, the model, and a count for each of COLUMNS."""


class DayUse:
    """The use of one day, of at most `metrics.MAX_NAMES` callers and models."""

    __slots__ = ("_callers", "_counts", "_models")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._callers: set[str] = set()
        self._models: set[str] = set()

    def of(self, caller: str, model: str) -> list[int]:
        """Return the counts of both, to which the caller adds."""
        sums = self._counts.get((caller, model))
        if sums is None:
            names = (OTHER, OTHER)
            if len(self._counts) < MAX_ROWS:
                names = placed(caller, self._callers), placed(model, self._models)
            sums = self._counts.setdefault(names, [0] * len(COLUMNS))
        return sums

    def add(self, rows: Iterable[tuple[str, str, Sequence[int]]]) -> None:
        for caller, model, counts in rows:
            sums = self.of(caller, model)
            for place, count in enumerate(counts):
                sums[place] += count

    def rows(self) -> Rows:
        return [(caller, model, counts) for (caller, model), counts in self._counts.items()]


class UsageLedger(Observer):
    """Adds up the access lines of callers that are known, each in the day in which its request ended."""

    def __init__(self, labels: Callable[[Labels], Labels], wall: Callable[[], float]) -> None:
        """`labels` returns the labels of the metrics, so that no client can invent a name."""
        self._labels, self._wall = labels, wall
        self.days: dict[int, DayUse] = {}
        """The counts that are not in the store."""

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
        del error
        access, attempt, usage = request.access, request.attempt, request.access.usage
        if not access.caller:
            return
        key = (access.caller, access.model, "" if attempt is None else attempt.upstream, access.operation)
        caller, _, model, *_ = self._labels(key)
        day = int(self._wall() // DAY_S)
        sums = (self.days.get(day) or self.of(day)).of(caller, model)
        sums[0] += 1
        sums[1] += access.outcome == "error"
        if usage is not None:
            tokens = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens)
            for place, count in enumerate(tokens, 2):
                if count and count <= MAX_TOKENS:
                    sums[place] += count

    def of(self, day: int) -> DayUse:
        """Return the use of `day`. A new day removes those that are no longer shown."""
        if day not in self.days:
            self.days = {one: use for one, use in self.days.items() if one > day - DAYS} | {day: DayUse()}
        return self.days[day]
