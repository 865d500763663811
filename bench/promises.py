"""The promises about performance, as ratios from one run, and whether a run meets them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.sample import Sample
from bench.workloads import BURST_EVENTS

US_PER_MS = 1000.0
ARRIVED_SHARE = 0.97
"""Share of the events of paced streams that must arrive in the window, without an error."""
AT_LIMIT, IDLE = 0.95, 0.9
"""The rig was the limit if its core was busier than AT_LIMIT and the gateway's core less busy than IDLE. Then the rate
measures the rig, and only the CPU time compares two gateways."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of one run: `loads` by candidate and workload, `footprints` by candidate and figure."""

    loads: Mapping[tuple[str, str], Sample]
    footprints: Mapping[tuple[str, str], float]

    def ratio(self, workload: str, figure: str, ours: str, theirs: str) -> float | None:
        own, other = self._figure(workload, figure, ours), self._figure(workload, figure, theirs)
        return own / other if own is not None and other else None

    def added(self, workload: str, figure: str) -> float | None:
        """Return the difference to a request without a gateway."""
        own, direct = self._figure(workload, figure, "gatepass"), self._figure(workload, figure, "direct")
        return own - direct if own is not None and direct is not None else None

    def by_cpu(self, workload: str, ours: str, theirs: str) -> float | None:
        """Return the ratio by CPU time if the rig was the limit of either candidate, else None."""
        own, other = self.loads.get((ours, workload)), self.loads.get((theirs, workload))
        if own is None or other is None or not own.cpu_us:
            return None
        is_limited = any(sample.rig_cpu >= AT_LIMIT and sample.gateway_cpu < IDLE for sample in (own, other))
        return other.cpu_us / own.cpu_us if is_limited else None

    def _figure(self, workload: str, figure: str, candidate: str) -> float | None:
        sample = self.loads.get((candidate, workload))
        return getattr(sample, figure) if sample is not None else None


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise. `at_least`: a value of `limit` or more meets it; otherwise `limit` or less."""

    work: str
    measure: str
    unit: str
    limit: float
    at_least: bool
    value: Callable[[Figures], float | None]
    by_cpu: Callable[[Figures], float | None] = lambda _: None
    """See Figures."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one promise.

    - `value`: None if it was not measured.
    - `by`: the distance to the limit as a share of the limit; 0 if the promise is met.
    - `by_cpu`: the same ratio by CPU time, if the rig was the limit.
    """

    promise: Promise
    value: float | None
    by_cpu: float | None = None

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.promise.limit if self.promise.at_least else self.value <= self.promise.limit

    @property
    def miss(self) -> float:
        if self.value is None or self.met:
            return 0.0
        return abs(self.value - self.promise.limit) / self.promise.limit


def check(figures: Figures, promises: tuple[Promise, ...] | None = None) -> list[Result]:
    return [Result(promise, promise.value(figures), promise.by_cpu(figures)) for promise in promises or PROMISES]


def _ratio(workload: str, figure: str, theirs: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.ratio(workload, figure, _ours(theirs), theirs)


def _ours(theirs: str) -> str:
    """Return the candidate of gatepass that is compared with `theirs`: TLS with TLS."""
    return "gatepass-tls" if theirs == "nginx-tls" else "gatepass"


def _at_least(work: str, measure: str, limit: float, workload: str, figure: str, theirs: str) -> Promise:
    """Return a promise about a rate."""

    def by_cpu(figures: Figures) -> float | None:
        return figures.by_cpu(workload, _ours(theirs), theirs)

    return Promise(work, measure, f"x {theirs}", limit, True, _ratio(workload, figure, theirs), by_cpu)


def _at_most(work: str, measure: str, limit: float, workload: str, figure: str, theirs: str) -> Promise:
    return Promise(work, measure, f"x {theirs}", limit, False, _ratio(workload, figure, theirs))


def _added_ms(workload: str, figure: str) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        added_us = figures.added(workload, figure)
        return added_us / US_PER_MS if added_us is not None else None

    return value


def _arrived(workload: str, nominal_events_s: float) -> Callable[[Figures], float | None]:
    """Return the share of the events that arrived; 0 if all arrived and a stream failed."""

    def value(figures: Figures) -> float | None:
        sample = figures.loads.get(("gatepass", workload))
        if sample is None:
            return None
        share = sample.events_s / nominal_events_s
        return 0.0 if sample.errors and share >= ARRIVED_SHARE else share

    return value


def _cpu_us(workload: str, events: int = 1) -> Callable[[Figures], float | None]:
    """Return CPU time per event. `events`: how many the upstream sent if the client received one reply."""

    def value(figures: Figures) -> float | None:
        sample = figures.loads.get(("gatepass", workload))
        return sample.cpu_us / events if sample is not None else None

    return value


def _footprint(figure: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.footprints.get(("gatepass", figure))


SMALL = "small chat, 64 at a time"
BURST = "streamed burst"
EMBEDDINGS = "embeddings, 380 KB replies"
PACED = "500 streams, an event each 50 ms"
IMAGE = "4 MB image that is moved"
TLS = "TLS to the upstream"
ALONE = "one small chat at a time"

PROMISES = (
    _at_least(SMALL, "requests/s", 60, "chat-64", "requests_s", "litellm"),
    _at_least(SMALL, "requests/s", 10, "chat-64", "requests_s", "naive"),
    _at_least(SMALL, "requests/s", 7, "chat-64", "requests_s", "openai-forward"),
    _at_least(SMALL, "requests/s", 0.12, "chat-64", "requests_s", "nginx"),
    _at_most(BURST, "CPU per event", 1.8, "burst-32", "cpu_us", "nginx"),
    _at_least(BURST, "events/s", 60, "burst-32", "events_s", "litellm"),
    _at_least(BURST, "events/s", 6, "burst-32", "events_s", "naive"),
    _at_most(PACED, "CPU per event", 1.8, "paced-500", "cpu_us", "nginx"),
    Promise(PACED, "added delay, p99", "ms", 2, False, _added_ms("paced-500", "delay_p99_us")),
    Promise(PACED, "TTFT added, p50", "ms", 0.5, False, _added_ms("paced-500", "ttft_added_p50_us")),
    Promise(
        "1,500 streams, an event each 50 ms",
        "events that arrived",
        "of all",
        ARRIVED_SHARE,
        True,
        _arrived("paced-1500", 1500 * 20.0),
    ),
    _at_most(ALONE, "latency p50", 2, "chat-1", "latency_p50_us", "nginx"),
    _at_least(EMBEDDINGS, "MB/s", 1.5, "embeddings-8", "mb_s", "nginx"),
    _at_most(IMAGE, "CPU", 8, "images-4", "cpu_us", "nginx"),
    Promise(IMAGE, "peak memory", "x the body", 4, False, _footprint("peak_bodies")),
    _at_least(TLS, "small chat, requests/s", 0.15, "chat-64", "requests_s", "nginx-tls"),
    _at_most(TLS, "200 paced streams, CPU per event", 2, "paced-200", "cpu_us", "nginx-tls"),
    _at_least(TLS, "embeddings, MB/s", 1.2, "embeddings-8", "mb_s", "nginx-tls"),
    Promise("repaired stream", "CPU per event", "µs", 12, False, _cpu_us("repaired-32")),
    Promise("synthesized stream", "CPU per event", "µs", 12, False, _cpu_us("emulated-8")),
    Promise("aggregated reply", "CPU per event", "µs", 12, False, _cpu_us("aggregated-8", BURST_EVENTS)),
    Promise("1,000 slow streams", "memory per stream", "KiB", 40, False, _footprint("stream_kib")),
    Promise("ready", "time", "s", 0.6, False, _footprint("ready_s")),
    Promise("idle", "memory", "MB", 60, False, _footprint("idle_mb")),
)
