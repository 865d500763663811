"""Counters and times in Prometheus' form. Labels come from closed sets: the configuration and the code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gatepass.errors import GatepassError, UpstreamRefusal
from gatepass.observe.exchange import Exchange

Family = TypeVar("Family", Counter, Histogram)

DURATIONS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class CredentialSample:
    """What /metrics shows of one credential, read at the moment of the scrape."""

    __slots__ = ("failures", "fetches", "life_left_s", "name", "usable")

    def __init__(self, name: str, *, usable: bool, life_left_s: float, fetches: int, failures: int) -> None:
        self.name = name
        self.usable = usable
        self.life_left_s = life_left_s
        self.fetches = fetches
        self.failures = failures


class Metrics:
    """One registry of its own: nothing global, so that a process can hold several gateways."""

    def __init__(self, credentials: Callable[[], Iterable[CredentialSample]]) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}
        self._requests = Counter(
            "gatepass_requests_total",
            "Requests by operation and outcome",
            ["operation", "outcome"],
            registry=self._registry,
        )
        self._attempts = Counter(
            "gatepass_attempts_total", "Requests sent to an upstream", ["upstream"], registry=self._registry
        )
        self._renewals = Counter(
            "gatepass_renewed_requests_total",
            "Requests sent again with a new token after a 401",
            ["upstream"],
            registry=self._registry,
        )
        self._stale = Counter(
            "gatepass_stale_repeats_total",
            "Requests sent again because a reused connection closed without an answer",
            ["upstream"],
            registry=self._registry,
        )
        self._errors = Counter(
            "gatepass_errors_total",
            "Errors by code and by the hop that failed",
            ["code", "hop"],
            registry=self._registry,
        )
        self._duration = Histogram(
            "gatepass_request_duration_seconds",
            "From the request's arrival to the response's end",
            ["operation"],
            buckets=DURATIONS_S,
            registry=self._registry,
        )
        self._ttft = Histogram(
            "gatepass_time_to_first_token_seconds",
            "From the request's arrival to the first event of a stream",
            ["operation"],
            buckets=DURATIONS_S,
            registry=self._registry,
        )
        self._bytes = Counter(
            "gatepass_client_bytes_total", "Body bytes on the first hop", ["direction"], registry=self._registry
        )
        self._in_flight = Gauge("gatepass_requests_in_flight", "Requests under way", registry=self._registry)
        self._registry.register(_Credentials(credentials))

    def opened(self) -> None:
        self._in_flight.inc()

    def closed(self, exchange: Exchange) -> None:
        """Count a finished exchange."""
        self._in_flight.dec()
        self._child(self._requests, exchange.operation, exchange.outcome).inc()
        self._child(self._duration, exchange.operation).observe(exchange.ended_s or 0.0)
        if exchange.events and exchange.first_byte_s is not None:
            self._child(self._ttft, exchange.operation).observe(exchange.first_byte_s)
        self._child(self._bytes, "in").inc(exchange.bytes_in)
        self._child(self._bytes, "out").inc(exchange.bytes_out)
        if exchange.error is not None:
            self._child(self._errors, _code(exchange.error), exchange.error.hop).inc()

    def attempted(self, upstream: str) -> None:
        self._child(self._attempts, upstream).inc()

    def renewed(self, upstream: str) -> None:
        self._child(self._renewals, upstream).inc()

    def repeated_stale(self, upstream: str) -> None:
        self._child(self._stale, upstream).inc()

    def _child(self, family: Family, *labels: str) -> Family:
        """The member of `family` with these labels: `labels()` checks and locks each time it is called."""
        found = self._children.get((family, labels))
        if found is None:
            found = self._children[family, labels] = family.labels(*labels)
        return cast("Family", found)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)


def _code(error: GatepassError) -> str:
    """The code of docs/errors.md. An upstream's own is none of a closed set, and would be a new series each."""
    return error.code if isinstance(error, UpstreamRefusal) else error.public_code


class _Credentials:
    """Reads the token holders when somebody asks."""

    def __init__(self, samples: Callable[[], Iterable[CredentialSample]]) -> None:
        self._samples = samples

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        left = GaugeMetricFamily("gatepass_token_life_left_seconds", "Until the token expires", labels=["credential"])
        usable = GaugeMetricFamily("gatepass_token_usable", "1 while a valid token is held", labels=["credential"])
        fetches = CounterMetricFamily("gatepass_token_fetches", "Fetches tried, good and bad", labels=["credential"])
        failures = CounterMetricFamily("gatepass_token_fetch_failures", "Fetches that failed", labels=["credential"])
        for sample in self._samples():
            left.add_metric([sample.name], sample.life_left_s)
            usable.add_metric([sample.name], float(sample.usable))
            fetches.add_metric([sample.name], sample.fetches)
            failures.add_metric([sample.name], sample.failures)
        yield from (left, usable, fetches, failures)
