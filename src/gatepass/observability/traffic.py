"""The traffic of the last 15 minutes, in slices of 15 seconds, from the totals of `Metrics`.

A task takes a sample at the end of each slice, so a request pays nothing for it. The slices begin at multiples of 15
seconds of the wall clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import accumulate
from typing import NoReturn

import msgspec

from gatepass.clock import Clock, sleep
from gatepass.documents import Quantiles, Series
from gatepass.observability.metrics import DURATION_S, FIRST_TOKEN_S, Metrics, Totals

WIDTH_S = 15
SLICES = 60
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


class Slice(msgspec.Struct, frozen=True):
    """What ended in one slice. `number` is the time of its begin in seconds since the epoch, divided by WIDTH_S."""

    number: int
    traffic: Totals


class Traffic:
    """The slices of one process. `sample` is called at least once in each."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._before = metrics.totals()
        self._number: int | None = None
        self._slices: deque[Slice] = deque(maxlen=SLICES - 1)

    async def run(self, clock: Clock) -> NoReturn:
        """Take a sample at the end of each slice, forever."""
        while True:
            self.sample(clock.wall())
            await sleep(clock, WIDTH_S - clock.wall() % WIDTH_S)

    def sample(self, wall_s: float) -> None:
        """End the running slice if `wall_s` is after it."""
        number = int(wall_s // WIDTH_S)
        if self._number is not None and number > self._number:
            totals = self._metrics.totals()
            self._slices.append(Slice(self._number, totals.since(self._before)))
            self._before = totals
        self._number = number

    def slices(self, wall_s: float) -> list[Slice]:
        """Return the slices of the last 15 minutes that this process has, oldest first, with the running one."""
        self.sample(wall_s)
        number = int(wall_s // WIDTH_S)
        kept = [one for one in self._slices if one.number > number - SLICES]
        return [*kept, Slice(number, self._metrics.totals().since(self._before))]

    def total(self, wall_s: float) -> Totals:
        """Return the sum of the last 15 minutes."""
        return reduce(Totals.plus, (one.traffic for one in self.slices(wall_s)))


def placed(slices: Iterable[Slice], wall_s: float) -> list[Totals]:
    """Return SLICES totals, the last one of the slice in which `wall_s` is: empty ones from before the start."""
    last = int(wall_s // WIDTH_S)
    found = [Totals() for _ in range(SLICES)]
    for one in slices:
        place = one.number - last + SLICES - 1
        if 0 <= place < SLICES:
            found[place] = found[place].plus(one.traffic)  # two, if the clock was set back
    return found


def series(totals: Sequence[Totals], wall_s: float) -> Series:
    whole = reduce(Totals.plus, totals, Totals())
    return Series(
        width_s=WIDTH_S,
        ended_at=(int(wall_s // WIDTH_S) + 1) * WIDTH_S,
        requests=[one.requests for one in totals],
        errors=[one.errors for one in totals],
        tokens_in=[one.tokens_in for one in totals],
        tokens_out=[one.tokens_out for one in totals],
        ttft_s=_quantiles([one.first_token_counts for one in (*totals, whole)], FIRST_TOKEN_S),
        duration_s=_quantiles([one.duration_counts for one in (*totals, whole)], DURATION_S),
    )


def _quantiles(counts: Sequence[Sequence[int]], bounds_s: Sequence[float]) -> Quantiles:
    found = {name: [quantile(one, bounds_s, share) for one in counts] for name, share in QUANTILES}
    return Quantiles(over_s=bounds_s[-2], all={name: values.pop() for name, values in found.items()}, **found)


def quantile(counts: Sequence[int], bounds_s: Sequence[float], share: float) -> float | None:
    """Return the bound that `share` of the counted durations do not exceed: the upper one of a bucket.

    `counts` are those of `metrics.Cell`, or empty. The last bound stands for all durations above the one before.
    None: no values.
    """
    total = sum(counts)
    if not total:
        return None
    place = next(index for index, reached in enumerate(accumulate(counts)) if reached >= share * total)
    return bounds_s[min(place, len(bounds_s) - 1)]
