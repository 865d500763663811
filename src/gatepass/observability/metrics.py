"""Count requests, tokens and learned rules, and write the counts in the Prometheus text format.

Label values come from closed sets: the configuration and the code.
The metrics of prometheus_client are thread-safe and check each step. That takes 0.5 µs, seven times a request. So the
metrics here are plain numbers, and prometheus_client only formats them at a scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from gatepass.errors import GatepassError, UpstreamErrorReply


class Counter:
    """One number that goes up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Counts:
    """A family of counters, one for each combination of label values that was used."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._counts: dict[tuple[str, ...], Counter] = {}

    def of(self, labels: tuple[str, ...]) -> Counter:
        """Return the counter of these labels. It is exposed from now on. A caller that adds often keeps it."""
        if (count := self._counts.get(labels)) is None:
            count = self._counts[labels] = Counter()
        return count

    def add(self, labels: tuple[str, ...]) -> None:
        (self._counts.get(labels) or self.of(labels)).value += 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count.value)
        yield family


class Gauge:
    """A gauge without labels."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self.value = 0

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._documentation, self.value)


class Histogram:
    """How many durations were at most each of `bounds_s`, and how many were longer."""

    __slots__ = ("_bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds_s, seconds)] += 1
        self.sum_s += seconds


class Times:
    """A family of histograms with one label. `bounds_s` are in ascending order."""

    def __init__(self, name: str, documentation: str, label: str, bounds_s: Sequence[float]) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._bounds_s = bounds_s
        self._histograms: dict[str, Histogram] = {}

    def of(self, label: str) -> Histogram:
        """Return the histogram of this label. It is exposed from now on. A caller that adds often keeps it."""
        if (histogram := self._histograms.get(label)) is None:
            histogram = self._histograms[label] = Histogram(self._bounds_s)
        return histogram

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        bounds = [*map(floatToGoString, self._bounds_s), "+Inf"]
        for label, histogram in self._histograms.items():
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            family.add_metric([label], buckets, histogram.sum_s)
        yield family


DURATIONS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class CredentialSample:
    """The state of one credential at the moment of a scrape."""

    __slots__ = ("failures", "fetches", "life_left_s", "name", "usable")

    def __init__(self, name: str, *, usable: bool, life_left_s: float, fetches: int, failures: int) -> None:
        self.name = name
        self.usable = usable
        self.life_left_s = life_left_s
        self.fetches = fetches
        self.failures = failures


class StoreSample(NamedTuple):
    """The state of the shared store at the moment of a scrape. `operations` counts by operation and outcome."""

    is_up: bool
    emptied: int
    operations: Mapping[tuple[str, str], int]


class Series(NamedTuple):
    """The metrics of one operation and outcome."""

    requests: Counter
    duration: Histogram
    bytes_in: Counter
    bytes_out: Counter


class Metrics:
    """All metrics of one app. They are not global, because a process can have several apps."""

    def __init__(
        self,
        credentials: Callable[[], Iterable[CredentialSample]],
        store: Callable[[], StoreSample | None] = lambda: None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counts(
            "gatepass_requests_total", "Requests by operation and outcome", ("operation", "outcome")
        )
        self._attempts = Counts("gatepass_attempts_total", "Requests sent to an upstream", ("upstream",))
        self._renewals = Counts(
            "gatepass_token_retries_total", "Requests sent again with a new token after a 401", ("upstream",)
        )
        self._stale = Counts(
            "gatepass_stale_connection_retries_total",
            "Requests sent again because a reused connection closed without an answer",
            ("upstream",),
        )
        self._empty_answers = Counts(
            "gatepass_empty_answers_total",
            "Chats that ended with finish reason stop and without content or a call",
            ("upstream",),
        )
        self._failovers = Counts(
            "gatepass_failovers_total",
            "Targets of a model that failed, so that the request was sent to the next one",
            ("upstream", "code"),
        )
        self._learned_rules = Counts(
            "gatepass_learned_rules_total",
            "Events of learned rules: learned, revoked, failed",
            ("upstream", "event"),
        )
        self._errors = Counts("gatepass_errors_total", "Errors by code and by the hop that failed", ("code", "hop"))
        self._duration = Times(
            "gatepass_request_duration_seconds",
            "From the request's arrival to the response's end",
            "operation",
            DURATIONS_S,
        )
        self._ttft = Times(
            "gatepass_time_to_first_token_seconds",
            "From the request's arrival to the first event of a stream",
            "operation",
            DURATIONS_S,
        )
        self._bytes = Counts(
            "gatepass_client_bytes_total", "Body bytes received from and sent to clients", ("direction",)
        )
        self._series: dict[tuple[str, str], Series] = {}
        self.in_flight = Gauge("gatepass_requests_in_flight", "Requests in progress")
        """The handler adds 1 at the start of a request, `request_finished` subtracts it."""
        counts = (
            *(self._requests, self._attempts, self._renewals, self._stale, self._failovers, self._learned_rules),
            *(self._errors, self._bytes, self._empty_answers),
        )
        for family in (*counts, self._duration, self._ttft, self.in_flight, _Credentials(credentials), _Store(store)):
            self._registry.register(family)

    def request_finished(self, operation: str, outcome: str, duration_s: float, bytes_in: int, bytes_out: int) -> None:
        """Count a finished request."""
        series = self._series.get((operation, outcome)) or self._new_series(operation, outcome)
        self.in_flight.value -= 1
        series.requests.value += 1
        series.duration.observe(duration_s)
        series.bytes_in.value += bytes_in
        series.bytes_out.value += bytes_out

    def began_stream(self, operation: str, first_byte_s: float) -> None:
        """Count a finished stream by the time until its first event."""
        self._ttft.of(operation).observe(first_byte_s)

    def _new_series(self, operation: str, outcome: str) -> Series:
        # Kept, because looking them up by label takes half of the time of counting.
        series = self._series[operation, outcome] = Series(
            self._requests.of((operation, outcome)),
            self._duration.of(operation),
            self._bytes.of(("in",)),
            self._bytes.of(("out",)),
        )
        return series

    def error_sent(self, error: GatepassError) -> None:
        """Count an error that was sent to a client."""
        self._errors.add((_code(error), error.hop))

    def attempted(self, upstream: str) -> None:
        self._attempts.add((upstream,))

    def renewed(self, upstream: str) -> None:
        self._renewals.add((upstream,))

    def repeated_stale(self, upstream: str) -> None:
        self._stale.add((upstream,))

    def empty_answer(self, upstream: str) -> None:
        self._empty_answers.add((upstream,))

    def failed_over(self, upstream: str, error: GatepassError) -> None:
        """Count a target that failed with `error` and was not the last one."""
        self._failovers.add((upstream, _code(error)))

    def learning_event(self, upstream: str, event: str) -> None:
        self._learned_rules.add((upstream, event))

    def exposition(self) -> bytes:
        return generate_latest(self._registry)


def _code(error: GatepassError) -> str:
    # A code of docs/errors.md. An upstream's codes are not a closed set, and each would be a new series.
    return error.code if isinstance(error, UpstreamErrorReply) else error.public_code


class _Credentials:
    """Reads the token holders at a scrape."""

    def __init__(self, samples: Callable[[], Iterable[CredentialSample]]) -> None:
        self._samples = samples

    def describe(self) -> Iterable[Metric]:
        return []  # without this method, registration would call `collect` before there are credentials

    def collect(self) -> Iterator[Metric]:
        left = GaugeMetricFamily(
            "gatepass_token_expires_in_seconds", "Time until the token expires", labels=["credential"]
        )
        usable = GaugeMetricFamily("gatepass_token_usable", "1 while a valid token is held", labels=["credential"])
        fetches = CounterMetricFamily(
            "gatepass_token_fetches", "Token fetches, failed ones included", labels=["credential"]
        )
        failures = CounterMetricFamily("gatepass_token_fetch_failures", "Failed token fetches", labels=["credential"])
        for sample in self._samples():
            left.add_metric([sample.name], sample.life_left_s)
            usable.add_metric([sample.name], float(sample.usable))
            fetches.add_metric([sample.name], sample.fetches)
            failures.add_metric([sample.name], sample.failures)
        yield from (left, usable, fetches, failures)


class _Store:
    """Reads the health of the shared store at a scrape. Without one there are no series."""

    def __init__(self, sample: Callable[[], StoreSample | None]) -> None:
        self._sample = sample

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        if (sample := self._sample()) is None:
            return
        yield GaugeMetricFamily(
            "gatepass_store_up", "1 while the shared store works and all use one encryption key", float(sample.is_up)
        )
        yield CounterMetricFamily("gatepass_store_emptied", "How often the store lost its data", sample.emptied)
        operations = CounterMetricFamily(
            "gatepass_store_operations", "Operations of the shared store", labels=["operation", "outcome"]
        )
        for labels, count in sample.operations.items():
            operations.add_metric(labels, count)
        yield operations


MERGED_BY: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {"gatepass_token_expires_in_seconds": min, "gatepass_token_usable": min, "gatepass_store_up": min}
)
"""Metrics that are not added up. The worst value of all processes is shown."""

_Labels = tuple[tuple[str, str], ...]


def merged(expositions: Iterable[bytes]) -> bytes:
    """Return the sum of the Prometheus texts of several worker processes, without `_created` times."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, _Labels], float]] = {}
    for exposition in expositions:
        for family in text_string_to_metric_families(exposition.decode()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            _add_samples(values.setdefault(family.name, {}), family)
    for name, metric in families.items():
        for (sample, labels), value in values[name].items():
            metric.add_sample(sample, dict(labels), value)
    return generate_latest(_Fixed(families.values()))


def _add_samples(values: dict[tuple[str, _Labels], float], family: Metric) -> None:
    for sample in family.samples:
        if sample.name.endswith("_created"):  # the start times of counters, which have no sum
            continue
        key = (sample.name, tuple(sample.labels.items()))
        combine = MERGED_BY.get(sample.name)
        if key not in values:
            values[key] = sample.value
        else:
            values[key] = combine(values[key], sample.value) if combine else values[key] + sample.value


class _Fixed:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
