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


class Count:
    """One number that goes up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Counts:
    """A family of counters, one for each combination of its labels' values that was ever asked for."""

    def __init__(self, name: str, says: str, labels: Sequence[str]) -> None:
        self._name, self._says, self._labels = name, says, labels
        self._counts: dict[tuple[str, ...], Count] = {}

    def of(self, labels: tuple[str, ...]) -> Count:
        """The counter of these labels, to be kept by whoever adds to it often. It is shown from now on."""
        if (count := self._counts.get(labels)) is None:
            count = self._counts[labels] = Count()
        return count

    def add(self, labels: tuple[str, ...]) -> None:
        self.of(labels).value += 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._says, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count.value)
        yield family


class Level:
    """A gauge without labels."""

    def __init__(self, name: str, says: str) -> None:
        self._name, self._says = name, says
        self.value = 0

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._says, self.value)


class Histogram:
    """How many times were up to each of `bounds_s`, and how many above all of them."""

    __slots__ = ("_bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds_s, seconds)] += 1
        self.sum_s += seconds


class Times:
    """A family of histograms with one label; `bounds_s` in order."""

    def __init__(self, name: str, says: str, label: str, bounds_s: Sequence[float]) -> None:
        self._name, self._says, self._label = name, says, label
        self._bounds_s = bounds_s
        self._histograms: dict[str, Histogram] = {}

    def of(self, label: str) -> Histogram:
        """The histogram of this label, to be kept by whoever adds to it often. It is shown from now on."""
        if (histogram := self._histograms.get(label)) is None:
            histogram = self._histograms[label] = Histogram(self._bounds_s)
        return histogram

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._says, labels=[self._label])
        bounds = [*map(floatToGoString, self._bounds_s), "+Inf"]
        for label, histogram in self._histograms.items():
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            family.add_metric([label], buckets, histogram.sum_s)
        yield family
