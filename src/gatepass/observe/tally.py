"""Counters and histograms that one thread adds to.

prometheus_client's own are safe for threads and checked at each step: half a microsecond each, seven times
a request. These are numbers in a dict; it words them when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString


class Counts:
    """A family of counters, one for each combination of its labels' values that was ever counted."""

    def __init__(self, name: str, says: str, labels: Sequence[str]) -> None:
        self._name, self._says, self._labels = name, says, labels
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._says, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class Level:
    """A gauge without labels."""

    def __init__(self, name: str, says: str) -> None:
        self._name, self._says = name, says
        self.value = 0

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._says, self.value)


class Times:
    """A family of histograms with one label; `bounds_s` in order."""

    def __init__(self, name: str, says: str, label: str, bounds_s: Sequence[float]) -> None:
        self._name, self._says, self._label = name, says, label
        self._bounds_s = bounds_s
        self._shown = [*map(floatToGoString, bounds_s), "+Inf"]
        self._counts: dict[str, list[int]] = {}
        self._sums_s: dict[str, float] = {}

    def observe(self, label: str, seconds: float) -> None:
        if label not in self._counts:
            self._counts[label], self._sums_s[label] = [0] * len(self._shown), 0.0
        self._counts[label][bisect_left(self._bounds_s, seconds)] += 1
        self._sums_s[label] += seconds

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._says, labels=[self._label])
        for label, counts in self._counts.items():
            buckets = list(zip(self._shown, accumulate(counts), strict=True))
            family.add_metric([label], buckets, self._sums_s[label])
        yield family
