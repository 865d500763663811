"""Metrics of requests, tokens and learned rules, in the Prometheus text format.

Label values come from the configuration and from the code. `MAX_SERIES` limits their combinations. The metrics are
plain numbers, and prometheus_client only formats them at a scrape. Its own metrics lock each change.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from gatepass.errors import GatepassError, UpstreamAuth, stable_code
from gatepass.observability.log import dropped_lines
from gatepass.observability.observer import (
    AccessRecord,
    AttemptRecord,
    Observer,
    Refusal,
    RequestRecord,
    RuleChange,
)
from gatepass.types import SERVER_ERROR

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# The bounds are those of OpenTelemetry's metrics for GenAI servers, with larger ones for models that think for minutes.
DURATION_S = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36),
)
FIRST_TOKEN_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
DELAY_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Bounds for delays that gatepass adds: its own time, waits for connections, the lag of the event loop."""

FAILING_IN_A_ROW = 3
"""An upstream is `failing` if so many requests in a row failed at it."""
MAX_SERIES = 1_000
"""Cap on combinations of caller, model, upstream and operation. More of them share the caller and the model OTHER."""
MAX_HISTOGRAMS = 200
"""Cap on combinations of model, upstream and operation, because each has three histograms of twenty lines."""
INLINE_SERIES = 50
"""Up to this many series are formatted on the event loop. That takes 10 ms."""
MAX_KEY_CHARS = 200
"""A request whose caller and model are longer than this is not cached in `Metrics.series`. It costs 1 µs more."""
LAG_EVERY_S = 0.5
MAX_TOKENS = 10**9
"""A larger token count of one reply is a fault of the upstream, and would make the sum useless."""
NONE, OTHER = "none", "other"
"""Label values. NONE: the request has no caller, model, upstream or operation. OTHER: the name is not configured."""
OUTCOMES = ("ok", "error", "client_gone")

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "gatepass_token_retries_total": (
            "Requests sent again with a new token, after a 401 or another rejection of the token"
        ),
        "gatepass_stale_connection_retries_total": (
            "Requests sent again because a reused connection closed without an answer"
        ),
        "gatepass_empty_answers_total": "Chats that ended with finish reason stop and without content or a call",
        "gatepass_failovers_total": (
            "Targets of a model that failed, so that gatepass sent the request to the next target. The upstream is"
            " down, full, or without a token"
        ),
        "gatepass_learned_rule_events_total": (
            "Events of learned rules: learned, revoked (the changed request failed too), failed"
        ),
        "gatepass_observer_failures_total": (
            "Events that an observer of requests, such as the access log, failed to handle"
        ),
        "gatepass_reloads_total": "Reloads of the configuration: reloaded, unchanged, refused",
        "gatepass_request_duration_seconds": "From the arrival of a request that succeeds to the response's end",
        "gatepass_time_to_first_token_seconds": "From the request's arrival to the first event of a stream",
        "gatepass_time_per_output_token_seconds": (
            "Time from a stream's first event to its end, divided by the output tokens after the first. Only for"
            " streams with reported tokens"
        ),
        "gatepass_added_latency_seconds": (
            "What gatepass adds to the time to the first byte of a good reply: the time without the waits for the"
            " client's body and for the upstream. A wait for a token is included"
        ),
        "gatepass_pool_wait_seconds": (
            "Waits for a free connection (max_connections). A request that did not wait is not counted"
        ),
        "gatepass_event_loop_lag_seconds": (
            "Delay of a timer that runs every half second. A long delay: a task holds the event loop, or the machine"
            " is overloaded"
        ),
        "gatepass_errors_total": (
            "Errors by code and by the hop that failed, with requests that gatepass rejected before it parsed them."
            " An upstream's own codes count as upstream_error"
        ),
        "gatepass_client_bytes_total": "Body bytes received from clients (in) and sent to clients (out)",
        "gatepass_log_lines_dropped_total": (
            "Log lines that were dropped, because no process read the log or it could not be written"
        ),
        "gatepass_requests_in_flight_limit": "The value of limits.connections, for one process",
        "gatepass_learned_rules": "Learned rules that gatepass applies now",
        "gatepass_upstream_rejects_token": "1 after the upstream rejected its token, until it accepts one",
        "gatepass_requests_total": "Finished requests, by outcome: ok, error, client_gone",
        "gatepass_requests_in_flight": "Requests in progress",
        "gatepass_attempts_total": (
            "Requests that finished requests sent to an upstream, with retries and failed connections"
        ),
        "gatepass_input_tokens_total": (
            "Input tokens that upstreams reported. Many report the tokens of a stream only if the client requests them"
        ),
        "gatepass_output_tokens_total": "Output tokens that upstreams reported",
        "gatepass_cached_input_tokens_total": "The part of the input tokens that the upstream read from its cache",
        "gatepass_reasoning_tokens_total": "The part of the output tokens that the model used for reasoning",
        "gatepass_token_expires_in_seconds": "Time until the token expires; +Inf for a key that does not expire",
        "gatepass_token_age_seconds": "Time since the token was requested",
        "gatepass_token_usable": "1 while a valid token is held",
        "gatepass_token_fetches": (
            "Token fetches, with failed ones. A fetch is counted by the process that called the token endpoint"
        ),
        "gatepass_token_fetch_failures": "Failed token fetches",
        "gatepass_upstream_connections": "Connections to the upstream, by state: busy, idle",
        "gatepass_upstream_connections_limit": "The value of max_connections of the upstream",
        "gatepass_pool_waiting_requests": "Requests that wait for a free connection",
        "gatepass_mcp_messages_total": (
            "Messages that were sent to MCP servers, by outcome. The method and the tool are `other` beyond the first"
            " 200 names. An error inside a reply with status 200 counts as ok"
        ),
        "gatepass_mcp_streams": "Streams of MCP clients that wait for events",
        "gatepass_mcp_streams_limit": "The value of limits.mcp_streams, for one process",
        "gatepass_store_up": (
            "1 while gatepass can read and write the shared store, and all processes use one encryption key. Absent"
            " without a store"
        ),
        "gatepass_store_emptied": "How often the shared store lost its data",
        "gatepass_store_operations": (
            "Operations of the shared store, by outcome: ok, failed, skipped (not sent in the second after a failure,"
            " or because the encryption key differs)"
        ),
    }
)
"""The documentation of each metric, by its name."""

REQUEST_LABELS = ("caller", "model", "upstream", "operation")
Labels = tuple[str, ...]


class Counter:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Counts:
    """A family of counters, one for each combination of label values that was used."""

    def __init__(self, registry: CollectorRegistry, name: str, labels: Labels) -> None:
        self._name, self._labels = name, labels
        self.by_labels: dict[Labels, Counter] = {}
        registry.register(self)

    def of(self, labels: Labels) -> Counter:
        """Return the counter of these labels. It is exposed from now on. A caller that adds often keeps it."""
        if (count := self.by_labels.get(labels)) is None:
            count = self.by_labels[labels] = Counter()
        return count

    def add(self, labels: Labels) -> None:
        (self.by_labels.get(labels) or self.of(labels)).value += 1

    def collect(self) -> Iterator[Metric]:
        counts = list(self.by_labels.items())  # a copy, as in `Metrics.scrape`
        yield _counter(self._name, self._labels, ((labels, count.value) for labels, count in counts))


class Histogram:
    """Durations, counted by upper bound. `counts[i]` is for those up to `bounds_s[i]`, the last one for the longer."""

    __slots__ = ("_bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds_s, seconds)] += 1  # `le` includes its bound
        self.sum_s += seconds


class Times:
    """A family of histograms. `bounds_s` are in ascending order."""

    def __init__(self, registry: CollectorRegistry, name: str, labels: Labels, bounds_s: Sequence[float]) -> None:
        self._name, self._labels = name, labels
        self._bounds_s = bounds_s
        self.by_labels: dict[Labels, Histogram] = {}
        registry.register(self)

    def of(self, labels: Labels) -> Histogram:
        if (histogram := self.by_labels.get(labels)) is None:
            histogram = self.by_labels[labels] = Histogram(self._bounds_s)
        return histogram

    def counts(self) -> tuple[int, ...]:
        """Return the sum over all histograms of the family, as `Histogram.counts`."""
        return tuple(map(sum, zip(*(one.counts for one in self.by_labels.values()), strict=True)))

    def collect(self) -> Iterator[Metric]:
        """Yield the family. A histogram without a value has no lines, because it would have twenty."""
        family = HistogramMetricFamily(self._name, METRICS[self._name], labels=self._labels)
        bounds = [*map(floatToGoString, self._bounds_s), "+Inf"]
        for labels, histogram in list(self.by_labels.items()):  # a copy, as in `Metrics.scrape`
            if any(histogram.counts):
                # Prometheus adds the counts of all smaller buckets to each bucket
                buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
                family.add_metric(labels, buckets, histogram.sum_s)
        yield family


class Series:
    """The metrics of one combination of caller, model, upstream and operation. All callers share its histograms."""

    __slots__ = (
        *("labels", "requests", "attempts", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"),
        *("duration", "first_token", "per_token", "added", "ended_s"),
    )

    def __init__(self, labels: Labels, times: Sequence[Histogram]) -> None:
        """`times` are the histograms `duration`, `first_token`, `per_token` and `added`."""
        self.labels = labels
        self.duration, self.first_token, self.per_token, self.added = times
        self.requests = dict.fromkeys(OUTCOMES, 0)
        self.attempts = self.input_tokens = self.output_tokens = self.cached_tokens = self.reasoning_tokens = 0
        self.ended_s = 0.0
        """When its last request ended."""

    def add_tokens(self, prompt: int | None, completion: int | None, cached: int | None, reasoning: int | None) -> None:
        """Add the tokens that one reply reports. None: the upstream did not report this number."""
        if prompt and prompt <= MAX_TOKENS:
            self.input_tokens += prompt
        if completion and completion <= MAX_TOKENS:
            self.output_tokens += completion
        if cached and cached <= MAX_TOKENS:
            self.cached_tokens += cached
        if reasoning and reasoning <= MAX_TOKENS:
            self.reasoning_tokens += reasoning


class CredentialSample(NamedTuple):
    """The state of one credential. `age_s` is None without a token."""

    name: str
    usable: bool
    age_s: float | None
    life_left_s: float
    fetches: int
    failures: int


class PoolSample(NamedTuple):
    upstream: str
    busy: int
    idle: int
    waiting: int
    limit: int


class StoreSample(NamedTuple):
    """The state of the shared store. `operations` has a count for each kind and outcome."""

    is_up: bool
    emptied: int
    operations: Mapping[tuple[str, str], int]


class Sample(NamedTuple):
    """Values that a scrape reads from the objects of AppState. `store` is None if the process shares nothing."""

    credentials: Sequence[CredentialSample] = ()
    pools: Sequence[PoolSample] = ()
    in_flight: Sequence[Labels] = ()
    """The key of each request in flight, as in `Metrics.series`."""
    in_flight_limit: int = 0
    learned_rules: Mapping[str, int] = MappingProxyType({})
    store: StoreSample | None = None
    rejects_token: Mapping[str, bool] = MappingProxyType({})
    """For each upstream with a credential."""
    mcp_streams: tuple[int, int] | None = None
    """The idle streams of MCP clients, and their limit. None without MCP servers."""


class Failures(NamedTuple):
    """How many requests failed at an upstream since the last one that succeeded, and the last one of them.

    A request that the upstream itself rejects, such as one with too many tokens, is none of them.
    """

    in_a_row: int
    id: str
    code: str
    ended_s: float


class Totals(msgspec.Struct, frozen=True):
    """Sums since the start of a process, or in a time: of requests, and of all times of `Histogram.counts`.

    `by_upstream` has the requests of each upstream and those that failed at it, with attempts that another target
    followed. A replay of an operator counts at none. `by_caller` has the requests, errors and tokens of each caller.
    `by_code` has the errors of each code, with those of requests that had no caller yet, without those of the page.
    """

    requests: int = 0
    errors: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    first_token_counts: tuple[int, ...] = ()
    duration_counts: tuple[int, ...] = ()
    by_upstream: Mapping[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    by_caller: Mapping[str, tuple[int, int, int]] = msgspec.field(default_factory=dict)
    by_code: Mapping[str, tuple[int]] = msgspec.field(default_factory=dict)

    def plus(self, other: Totals) -> Totals:
        return self._with(other, 1)

    def since(self, before: Totals) -> Totals:
        """Return what was added after `before`."""
        return self._with(before, -1)

    def _with(self, other: Totals, sign: int) -> Totals:
        def combined(one: Sequence[int], two: Sequence[int]) -> tuple[int, ...]:
            return tuple(a + sign * b for a, b in zip_longest(one, two, fillvalue=0))

        def of_names(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
            return {name: combined(one.get(name, ()), two.get(name, ())) for name in {**one, **two}}

        return Totals(
            self.requests + sign * other.requests,
            self.errors + sign * other.errors,
            self.tokens_in + sign * other.tokens_in,
            self.tokens_out + sign * other.tokens_out,
            combined(self.first_token_counts, other.first_token_counts),
            combined(self.duration_counts, other.duration_counts),
            of_names(self.by_upstream, other.by_upstream),
            of_names(self.by_caller, other.by_caller),
            of_names(self.by_code, other.by_code),
        )


class Metrics(Observer):
    """The metrics of one app. Not global, because a process can have several.

    `mask` hides secrets in names that clients choose.
    """

    def __init__(self, mask: Callable[[str], str] = str) -> None:
        self.series: dict[Labels, Series] = {}
        """By the caller, model, upstream and operation as a request has them. `of` finds those that are not here."""
        self._by_labels: dict[Labels, Series] = {}
        self._sample: Callable[[], Sample] = Sample
        self._sampled = Sample()
        self._scraping = asyncio.Lock()
        self._configured_name: Callable[[str], str | None] = lambda _: None
        registry = self._registry = CollectorRegistry()
        self._renewals = Counts(registry, "gatepass_token_retries_total", ("upstream",))
        self._stale = Counts(registry, "gatepass_stale_connection_retries_total", ("upstream",))
        self._empty_answers = Counts(registry, "gatepass_empty_answers_total", ("upstream",))
        self._failovers = Counts(registry, "gatepass_failovers_total", ("upstream", "code"))
        self._learning = Counts(registry, "gatepass_learned_rule_events_total", ("upstream", "event"))
        self._observer_failures = Counts(registry, "gatepass_observer_failures_total", ("observer",))
        self._reloads = Counts(registry, "gatepass_reloads_total", ("outcome",))
        for outcome in ("reloaded", "unchanged", "refused"):
            self._reloads.of((outcome,))  # Prometheus sees an increase only of a series that it has seen before
        shared = REQUEST_LABELS[1:]
        self._duration = Times(registry, "gatepass_request_duration_seconds", shared, DURATION_S)
        self._first_token = Times(registry, "gatepass_time_to_first_token_seconds", shared, FIRST_TOKEN_S)
        self._per_token = Times(registry, "gatepass_time_per_output_token_seconds", shared, PER_TOKEN_S)
        self._added = Times(registry, "gatepass_added_latency_seconds", REQUEST_LABELS[2:], DELAY_S)
        self._pool_waits = Times(registry, "gatepass_pool_wait_seconds", ("upstream",), DELAY_S)
        self._loop_lag = Times(registry, "gatepass_event_loop_lag_seconds", (), DELAY_S)
        self._errors = Counts(registry, "gatepass_errors_total", (*REQUEST_LABELS, "code", "hop"))
        client_bytes = Counts(registry, "gatepass_client_bytes_total", ("direction",))
        self.bytes_in, self.bytes_out = client_bytes.of(("in",)), client_bytes.of(("out",))
        registry.register(self)
        ProcessCollector(registry=registry)
        self._mask = mask
        self._by_upstream: dict[str, tuple[int, int]] = {}
        self.failures: dict[str, Failures] = {}
        """By upstream. One whose last request succeeded has none."""
        self._at_page: dict[str, int] = {}
        """The errors of the page by code, which are in `_errors` too."""
        self._of_mcp: McpMetrics | None = None

    def attach(self, sample: Callable[[], Sample], configured_name: Callable[[str], str | None]) -> None:
        """Set the functions that depend on the configuration. A reload sets them again; all metrics keep their values.

        `sample` is called at a scrape. `configured_name` returns the name or pattern in the configuration that a model
        matches, or None.
        """
        self._sample, self._configured_name = sample, configured_name
        self.series.clear()  # its labels come from the names of the old configuration

    def of_mcp(self) -> McpMetrics:
        """Return what counts the messages to MCP servers, the same one at each call."""
        if self._of_mcp is None:
            self._of_mcp = McpMetrics(self._registry, self._mask)
        return self._of_mcp

    def of(self, key: Labels) -> Series:
        """Return the series of `key`. An unknown caller, model, upstream or operation is ""."""
        if (found := self.series.get(key)) is not None:
            return found
        labels = self._labels(key)
        series = self._by_labels.get(labels)
        if series is None and len(self._by_labels) >= MAX_SERIES:
            labels = (OTHER, OTHER, *labels[2:])
            series = self._by_labels.get(labels)
        if series is None:
            shared = labels[1:]
            if len(self._duration.by_labels) >= MAX_HISTOGRAMS and shared not in self._duration.by_labels:
                shared = (OTHER, *shared[1:])
            times = [family.of(shared) for family in (self._duration, self._first_token, self._per_token)]
            series = self._by_labels[labels] = Series(labels, (*times, self._added.of(labels[2:])))
        if len(self.series) < MAX_SERIES and len(key[0]) + len(key[1]) <= MAX_KEY_CHARS:
            self.series[key] = series
        return series

    def totals(self) -> Totals:
        """Return the sums over all callers, models, upstreams and operations."""
        by_caller: dict[str, list[int]] = {}
        by_code: dict[str, int] = {}
        requests = errors = tokens_in = tokens_out = 0
        for one in self._by_labels.values():
            ended, failed = sum(one.requests.values()), one.requests["error"]
            requests, errors = requests + ended, errors + failed
            tokens_in, tokens_out = tokens_in + one.input_tokens, tokens_out + one.output_tokens
            of_caller = by_caller.setdefault(one.labels[0], [0, 0, 0])
            of_caller[0] += ended
            of_caller[1] += failed
            of_caller[2] += one.input_tokens + one.output_tokens
        for labels, count in self._errors.by_labels.items():
            by_code[labels[-2]] = by_code.get(labels[-2], 0) + int(count.value)
        for code, refused in self._at_page.items():
            by_code[code] -= refused
        return Totals(
            requests,
            errors,
            tokens_in,
            tokens_out,
            self._first_token.counts(),
            self._duration.counts(),
            dict(self._by_upstream),
            {name: (ended, failed, tokens) for name, (ended, failed, tokens) in by_caller.items()},
            {code: (failed,) for code, failed in by_code.items()},
        )

    def last_used_s(self) -> dict[str, float]:
        """Return when the last request of each caller ended, by `Clock.now`."""
        found: dict[str, float] = {}
        for one in self._by_labels.values():
            found[one.labels[0]] = max(found.get(one.labels[0], 0.0), one.ended_s)
        return found

    def request_ended(self, request: RequestRecord) -> None:
        access, attempt, first_byte_s = request.access, request.attempt, request.first_byte_s
        outcome, usage = access.outcome, access.usage
        key = (access.caller, access.model, "" if attempt is None else attempt.upstream, access.operation)
        series = self.series.get(key) or self.of(key)
        series.requests[outcome] += 1
        series.ended_s = request.arrived_s + request.duration_s
        if outcome == "ok":  # a request that fails at once would hide slow ones
            series.duration.observe(request.duration_s)
        self.bytes_in.value += access.bytes_in
        self.bytes_out.value += access.bytes_out
        if request.error is not None:
            self._count_error(request.error, series.labels)
        if attempt is None:
            return
        series.attempts += attempt.requests
        if access.mcp_method and attempt.requests:
            self.of_mcp().count(access, attempt.upstream, exists=attempt.mcp_exists)
        if not access.replay_of:
            self._ended_at(attempt.upstream, request)
        later, earlier = attempt, attempt.after
        while earlier is not None:
            self.of((*key[:2], earlier.upstream, key[3])).attempts += earlier.requests
            if later.cause == "next_target" and not access.replay_of:
                self._count_at_upstream(earlier.upstream, True)
            later, earlier = earlier, earlier.after
        if access.empty_answer:
            self._empty_answers.add((attempt.upstream,))
        if usage is not None:
            series.add_tokens(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
        if first_byte_s is None:
            return
        if outcome == "ok":
            series.added.observe(request.added_s)
        if access.events:
            series.first_token.observe(first_byte_s)
            later_tokens = 0 if usage is None else (usage.completion_tokens or 0) - 1
            if later_tokens > 0 and outcome == "ok" and not request.is_synthesized:
                series.per_token.observe((request.duration_s - first_byte_s) / later_tokens)

    def _count_at_upstream(self, upstream: str, failed: bool) -> None:
        of_upstream = self._by_upstream.get(upstream, (0, 0))
        self._by_upstream[upstream] = (of_upstream[0] + 1, of_upstream[1] + failed)

    def _ended_at(self, upstream: str, request: RequestRecord) -> None:
        error = request.error
        if error is None or error.hop != f"upstream:{upstream}":
            self._count_at_upstream(upstream, False)
            if self.failures and request.access.outcome == "ok":
                self.failures.pop(upstream, None)
            return
        self._count_at_upstream(upstream, True)
        if error.http_status >= SERVER_ERROR or isinstance(error, UpstreamAuth):
            before, ended_s = self.failures.get(upstream), request.arrived_s + request.duration_s
            number = 1 if before is None else before.in_a_row + 1
            self.failures[upstream] = Failures(number, request.access.id, error.public_code, ended_s)

    def health(self, upstream: str) -> str:
        """Return `failing` if the last FAILING_IN_A_ROW requests failed at `upstream`, or all of fewer; else `ok`.

        `unknown`: none has ended there.
        """
        requests, _ = self._by_upstream.get(upstream, (0, 0))
        if not requests:
            return "unknown"
        failed = self.failures.get(upstream)
        return "ok" if failed is None or failed.in_a_row < min(FAILING_IN_A_ROW, requests) else "failing"

    def last_failed(self, upstream: str, now_s: float) -> dict[str, Any] | None:
        """Return the last requests that failed at `upstream` as JSON. None if the last one succeeded."""
        if (found := self.failures.get(upstream)) is None:
            return None
        age_s = round(max(0.0, now_s - found.ended_s), 3)
        shown = {"id": self._mask(found.id), "code": self._mask(found.code)}
        return {"in_a_row": found.in_a_row, **shown, "age_s": age_s}

    def attempt_repeats(self, attempt: AttemptRecord) -> None:
        before = attempt.after
        if attempt.cause == "new_connection":
            self._stale.add((attempt.upstream,))
        elif before is not None and attempt.cause == "new_token" and before.outcome == "token_rejected":
            self._renewals.add((attempt.upstream,))
        elif before is not None and attempt.cause == "next_target":
            self._failovers.add((before.upstream, before.code or NONE))

    def refused(self, refusal: Refusal) -> None:
        if refusal.at_page:
            code = stable_code(refusal.error.public_code, refusal.error.hop)
            self._at_page[code] = self._at_page.get(code, 0) + 1
        self._count_error(refusal.error, (NONE,) * len(REQUEST_LABELS))

    def rule_changed(self, change: RuleChange) -> None:
        self._learning.add((change.upstream, change.event))

    def observer_failed(self, observer: str) -> None:
        self._observer_failures.add((observer,))

    def _count_error(self, error: GatepassError, of_request: Labels) -> None:
        labels = (*of_request, stable_code(error.public_code, error.hop), error.hop)
        if len(self._errors.by_labels) >= MAX_SERIES and labels not in self._errors.by_labels:
            labels = (OTHER, OTHER, *labels[2:])
        self._errors.add(labels)

    def waited_for_connection(self, upstream: str, seconds: float) -> None:
        self._pool_waits.of((upstream,)).observe(seconds)

    @contextmanager
    def loop_lag_sampled(self, every_s: float = LAG_EVERY_S) -> Iterator[None]:
        """Measure the lag of the running event loop while the block runs: how late it calls a timer."""
        loop, lag = asyncio.get_running_loop(), self._loop_lag.of(())

        timer: asyncio.TimerHandle

        def start() -> None:
            nonlocal timer
            due_s = loop.time() + every_s
            timer = loop.call_at(due_s, measure, due_s)

        def measure(due_s: float) -> None:
            lag.observe(max(0.0, loop.time() - due_s))
            start()

        start()
        try:
            yield
        finally:
            timer.cancel()

    def reloaded(self, outcome: str) -> None:
        self._reloads.add((outcome,))

    def exposition(self) -> bytes:
        self._sampled = self._sample()
        return generate_latest(self._registry)

    async def scrape(self) -> bytes:
        """Return `exposition` without holding the event loop: a thread formats many series."""
        if len(self._by_labels) <= INLINE_SERIES:
            return self.exposition()
        # one at a time, because a second scrape would replace the sample that the thread reads
        async with self._scraping:
            self._sampled = self._sample()  # here, because the event loop changes what it reads
            return await asyncio.to_thread(generate_latest, self._registry)

    def _labels(self, key: Labels) -> Labels:
        caller, model, upstream, operation = key
        name = (self._configured_name(model) or OTHER) if model else NONE
        return (caller or NONE, name, upstream or NONE, operation)

    def describe(self) -> Iterable[Metric]:
        return []  # without this method, registration would call `collect` before there are credentials

    def collect(self) -> Iterator[Metric]:
        """Yield the families that exist only at a scrape."""
        sample = self._sampled
        yield from self._request_families(sample)
        yield from _credential_families(sample.credentials)
        yield from _pool_families(sample.pools)
        yield _counter("gatepass_log_lines_dropped_total", (), [((), dropped_lines())])
        yield _gauge("gatepass_requests_in_flight_limit", (), [((), sample.in_flight_limit)])
        learned, rejecting = sample.learned_rules.items(), sample.rejects_token.items()
        yield _gauge("gatepass_learned_rules", ("upstream",), (((name,), rules) for name, rules in learned))
        yield _gauge("gatepass_upstream_rejects_token", ("upstream",), (((name,), one) for name, one in rejecting))
        if sample.store is not None:
            yield from _store_families(sample.store)
        if sample.mcp_streams is not None:
            yield _gauge("gatepass_mcp_streams", (), [((), sample.mcp_streams[0])])
            yield _gauge("gatepass_mcp_streams_limit", (), [((), sample.mcp_streams[1])])

    def _request_families(self, sample: Sample) -> Iterator[Metric]:
        all_series = list(self._by_labels.values())  # a copy: the event loop adds series while a thread formats them
        counts = [((*one.labels, outcome), n) for one in all_series for outcome, n in one.requests.items()]
        yield _counter("gatepass_requests_total", (*REQUEST_LABELS, "outcome"), counts)
        for name, attribute in _SERIES_COUNTS.items():
            values = ((one.labels, count) for one in all_series if (count := getattr(one, attribute)))
            yield _counter(name, REQUEST_LABELS, values)
        in_flight = {series.labels: 0 for series in all_series}  # with zeros, so that a graph falls to 0
        for key in sample.in_flight:
            labels = self._labels(key)
            if labels not in in_flight and len(in_flight) >= MAX_SERIES:
                labels = (OTHER, OTHER, *labels[2:])
            in_flight[labels] = in_flight.get(labels, 0) + 1
        yield _gauge("gatepass_requests_in_flight", REQUEST_LABELS, in_flight.items())


MOST_MCP_NAMES = 200
"""The methods and tools of one server that have a label of their own."""


class McpMetrics:
    """Counts the messages that were sent to MCP servers. Made for the first one.

    Clients may invent methods and tools: they have the label OTHER until the server has executed them.
    """

    def __init__(self, registry: CollectorRegistry, mask: Callable[[str], str]) -> None:
        self._mask = mask
        self._messages = Counts(registry, "gatepass_mcp_messages_total", ("upstream", "method", "tool", "outcome"))
        self._names: dict[str, dict[str, str]] = {}

    def count(self, access: AccessRecord, upstream: str, *, exists: bool) -> None:
        names, tool = self._names.setdefault(upstream, {}), access.mcp_tool
        method = access.mcp_method if tool else self._shown(names, access.mcp_method, exists=exists)
        self._messages.add(
            (upstream, method, self._shown(names, tool, exists=exists) if tool else NONE, access.outcome)
        )

    def _shown(self, names: dict[str, str], name: str, *, exists: bool) -> str:
        """Return `name` without secrets and control characters; OTHER if it is unknown, or above MOST_MCP_NAMES."""
        if (shown := names.get(name)) is None:
            if not exists or len(names) >= MOST_MCP_NAMES:
                return OTHER
            shown = names[name] = "".join(char if char.isprintable() else "\ufffd" for char in self._mask(name))
        return shown


def _counter(name: str, labels: Labels, values: Iterable[tuple[Labels, float]]) -> Metric:
    return _filled(CounterMetricFamily(name, METRICS[name], labels=labels), values)


def _gauge(name: str, labels: Labels, values: Iterable[tuple[Labels, float]]) -> Metric:
    return _filled(GaugeMetricFamily(name, METRICS[name], labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Iterable[tuple[Labels, float]]) -> Metric:
    for labels, value in values:
        family.add_metric(labels, value)
    return family


_SERIES_COUNTS: Mapping[str, str] = MappingProxyType(
    {
        "gatepass_attempts_total": "attempts",
        "gatepass_input_tokens_total": "input_tokens",
        "gatepass_output_tokens_total": "output_tokens",
        "gatepass_cached_input_tokens_total": "cached_tokens",
        "gatepass_reasoning_tokens_total": "reasoning_tokens",
    }
)
"""The attribute of Series that each of these metrics shows."""


def _credential_families(samples: Iterable[CredentialSample]) -> Iterator[Metric]:
    label, of = ("credential",), {(sample.name,): sample for sample in samples}
    yield _gauge("gatepass_token_expires_in_seconds", label, ((name, one.life_left_s) for name, one in of.items()))
    ages_s = ((name, one.age_s) for name, one in of.items() if one.age_s is not None)
    yield _gauge("gatepass_token_age_seconds", label, ages_s)
    yield _gauge("gatepass_token_usable", label, ((name, one.usable) for name, one in of.items()))
    yield _counter("gatepass_token_fetches", label, ((name, one.fetches) for name, one in of.items()))
    yield _counter("gatepass_token_fetch_failures", label, ((name, one.failures) for name, one in of.items()))


def _pool_families(samples: Sequence[PoolSample]) -> Iterator[Metric]:
    by_state = [((one.upstream, state), n) for one in samples for state, n in (("busy", one.busy), ("idle", one.idle))]
    yield _gauge("gatepass_upstream_connections", ("upstream", "state"), by_state)
    limits = (((one.upstream,), one.limit) for one in samples)
    yield _gauge("gatepass_upstream_connections_limit", ("upstream",), limits)
    waiting = (((one.upstream,), one.waiting) for one in samples)
    yield _gauge("gatepass_pool_waiting_requests", ("upstream",), waiting)


def _store_families(sample: StoreSample) -> Iterator[Metric]:
    yield _gauge("gatepass_store_up", (), [((), sample.is_up)])
    yield _counter("gatepass_store_emptied", (), [((), sample.emptied)])
    yield _counter("gatepass_store_operations", ("operation", "outcome"), sample.operations.items())


MERGED_BY: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "gatepass_token_expires_in_seconds": min,
        "gatepass_token_usable": min,
        "gatepass_token_age_seconds": max,
        "gatepass_learned_rules": max,
        "gatepass_upstream_rejects_token": max,
        "gatepass_store_up": min,
        "process_open_fds": max,
        "process_max_fds": min,
        "process_start_time_seconds": max,
    }
)
"""Metrics that are not added up. The worst value of all processes is shown, and the start of the youngest one."""


def merge_expositions(expositions: Iterable[bytes]) -> bytes:
    """Return the sum of the Prometheus texts of several worker processes.

    The workers run the same code, so the lines of one sample differ only in the value. They are merged as text: a
    parser takes fifty times as long.
    """
    families: dict[str, dict[str, list[float]]] = {}
    for exposition in expositions:
        head, values = "", families.setdefault("", {})
        for line in exposition.decode().split("\n")[:-1]:  # a label value may have other line separators
            if line.startswith("# HELP "):
                head = line
            elif line.startswith("#"):
                values = families.setdefault(f"{head}\n{line}\n", {})
            else:
                sample, _, text = line.rpartition(" ")  # a label value may hold blanks
                values.setdefault(sample, []).append(float(text))
    parts: list[str] = []
    for head, samples in families.items():
        combined = [MERGED_BY.get(sample.partition("{")[0], sum)(values) for sample, values in samples.items()]
        lines = zip(samples, map(floatToGoString, combined), strict=True)
        parts += [head, *(f"{sample} {value}\n" for sample, value in lines)]
    return "".join(parts).encode()
