"""Metrics of requests, tokens and learned rules, in the Prometheus text format.

Label values come from the configuration, from the code and from the model lists of upstreams. `MAX_SERIES` limits
their combinations. The metrics are plain numbers: those of prometheus_client lock each change, and it takes ten times
as long to format them.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise, zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import msgspec
from msgspec.structs import astuple
from prometheus_client import ProcessCollector

from gatepass.documents import Failure, Failures
from gatepass.errors import GatepassError
from gatepass.observability.log import dropped_lines, printable
from gatepass.observability.observer import AccessRecord, AttemptRecord, Observer, Refusal, RequestRecord, RuleChange
from gatepass.observability.story import AT_ANOTHER, attempts_of, is_failure, test_command, was_passed_over

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# The bounds are those of OpenTelemetry's metrics for GenAI servers, with larger ones for models that think for minutes.
# A promise of whole seconds needs a bound: docs/operations/monitoring.md counts the streams that begin within 2 s.
DURATION_S = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36),
)
FIRST_TOKEN_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2, 2.5, 5, 7.5, 10, 30, 60, 120)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
DELAY_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Bounds for delays that gatepass adds: its own time, waits for connections, the lag of the event loop."""

NOT_REACHED = frozenset(("upstream_connect", "upstream_dns", "upstream_timeout_connect", "upstream_tls"))
"""The codes of a connection failure. Any reply of the upstream ends one."""
FAILING_IN_A_ROW = 3
"""An upstream is `failing` if so many requests in a row failed at it."""
OFTEN = 0.1
"""The share of errors above which an upstream is not called healthy."""
MANY = 5
"""Fewer errors are not many, also of few requests: a client may have sent a wrong model name."""
MAX_NAMES = 200
"""The tools of an MCP server that have series of their own, and the keys and limits that a scrape shows."""
MAX_SERIES = 20_000
"""Cap on the series that requests make, each a line of a scrape. New ones above it have OTHER for each name. New
histograms, of about 20 series each, lose the caller and its group above half of it: then each caller has counters."""
SERIES_OF_OTHER = 1_000
"""The part of them for those with OTHER: their other labels have closed sets of values."""
MAX_CACHED = 1_000
"""The keys that `Metrics.series` caches. For others a request takes 5 µs more."""
MOST_CODES = 200
"""The codes that `Totals.by_code` tells apart. Beyond them an upstream's own code counts as `upstream_error`."""
LAG_EVERY_S = 0.5
MAX_TOKENS = 10**9
"""A larger token count of one reply is a fault of the upstream, and would make the sum useless."""
NONE, OTHER = "none", "other"
"""Label values. NONE: the request has no such value. OTHER: the name is neither configured nor listed by an upstream,
or there are too many."""
NO_CALLER_ROW = "no_caller_row"
"""The code of a token that fits no row, and the caller of its requests: unlike without a key, somebody signed in."""
Labels = tuple[str, ...]
REQUEST_LABELS = ("caller", "group", "model", "upstream", "operation")


class Declared(NamedTuple):
    """A metric, as COUNTED and SAMPLED declare it."""

    name: str
    labels: Labels
    meaning: str
    bounds_s: Sequence[float] = ()
    """Of a histogram, in ascending order."""


COUNTED: tuple[Declared, ...] = (
    Declared(
        "gatepass_requests_total",
        (*REQUEST_LABELS, "status", "outcome", "code"),
        "Finished requests, by the HTTP status that the client received, by outcome (ok, error, client_gone, unread)"
        " and by the error's code. A stream that fails after its begin has status 200 and outcome error. An upstream's"
        " own codes count as upstream_error",
    ),
    Declared(
        "gatepass_attempts_total",
        REQUEST_LABELS,
        "Requests that finished requests sent to an upstream, with retries and failed connections",
    ),
    Declared(
        "gatepass_input_tokens_total",
        REQUEST_LABELS,
        "Input tokens that upstreams reported. Many report the tokens of a stream only if the client requests them",
    ),
    Declared("gatepass_output_tokens_total", REQUEST_LABELS, "Output tokens that upstreams reported"),
    Declared(
        "gatepass_cached_input_tokens_total",
        REQUEST_LABELS,
        "The part of the input tokens that the upstream read from its cache",
    ),
    Declared(
        "gatepass_reasoning_tokens_total",
        REQUEST_LABELS,
        "The part of the output tokens that the model used for reasoning",
    ),
    Declared(
        "gatepass_mcp_tool_calls_total",
        ("caller", "upstream", "tool", "outcome"),
        "Calls of tools of MCP servers. `tool` is one of the first 200 that the server ran without an error. Earlier"
        " calls and all other names count as other",
    ),
    Declared(
        "gatepass_empty_answers_total",
        ("upstream",),
        "Chats that ended with finish reason stop and without content or a call",
    ),
    Declared(
        "gatepass_failovers_total",
        ("upstream", "code"),
        "Targets of a model that failed, so that gatepass sent the request to the next target. The upstream is"
        " down, full, or without a token, or `retry` of the model allows it. An upstream's own codes count as"
        " upstream_error",
    ),
    Declared(
        "gatepass_repeats_total",
        ("upstream", "cause"),
        "Attempts that failed and were repeated, by cause: new_token, new_connection, learned_rule, next_target, retry",
    ),
    Declared(
        "gatepass_learned_rule_events_total",
        ("upstream", "event"),
        "Events of learned rules: learned, revoked (the upstream refused the rule), failed (a change did not help)",
    ),
    Declared(
        "gatepass_observer_failures_total",
        ("observer",),
        "Events that an observer of requests, such as the access log, failed to handle",
    ),
    Declared("gatepass_reloads_total", ("outcome",), "Reloads of the configuration: reloaded, unchanged, refused"),
    Declared(
        "gatepass_request_duration_seconds",
        REQUEST_LABELS,
        "From the arrival of a request that succeeds to the response's end",
        bounds_s=DURATION_S,
    ),
    Declared(
        "gatepass_time_to_first_token_seconds",
        REQUEST_LABELS,
        "From the request's arrival to the first event of a stream",
        bounds_s=FIRST_TOKEN_S,
    ),
    Declared(
        "gatepass_time_per_output_token_seconds",
        REQUEST_LABELS,
        "Time from a stream's first event to its end, divided by the output tokens after the first. Only for"
        " streams with reported tokens",
        bounds_s=PER_TOKEN_S,
    ),
    Declared(
        "gatepass_added_latency_seconds",
        ("upstream", "operation"),
        "What gatepass adds to the time to the first byte of a good reply: the time without the waits for the"
        " client's body and for the upstream. A wait for a token is included",
        bounds_s=DELAY_S,
    ),
    Declared(
        "gatepass_queue_wait_seconds",
        REQUEST_LABELS,
        "Waits for a place at a full upstream (max_in_flight). A request that did not wait is not counted",
        bounds_s=DELAY_S,
    ),
    Declared(
        "gatepass_pool_wait_seconds",
        ("upstream",),
        "Waits for a free connection (max_connections). A request that did not wait is not counted",
        bounds_s=DELAY_S,
    ),
    Declared(
        "gatepass_event_loop_lag_seconds",
        (),
        "Delay of a timer that runs every half second. A long delay: a task holds the event loop, or the machine"
        " is overloaded",
        bounds_s=DELAY_S,
    ),
    Declared(
        "gatepass_errors_total",
        (*REQUEST_LABELS, "code", "hop"),
        "Errors by code and by the hop that failed, with requests that gatepass rejected before it parsed them. An"
        " upstream's own codes count as upstream_error",
    ),
    Declared(
        "gatepass_limit_hits_total",
        ("kind", "name", "limit"),
        "Requests that a limit refused. A target whose upstream's limit has no room is passed over. kind is end_user,"
        " caller, jwt (a row of access.jwt), group, model or upstream",
    ),
    Declared(
        "gatepass_client_bytes_total",
        ("direction",),
        "Body bytes received from clients (in) and sent to clients (out)",
    ),
)
"""The metrics that are counted when something happens."""
SAMPLED: tuple[Declared, ...] = (
    Declared(
        "gatepass_log_lines_dropped_total",
        (),
        "Log lines that were dropped, because no process read the log or it could not be written",
    ),
    Declared("gatepass_requests_in_flight_limit", (), "The value of limits.connections, for one process"),
    Declared("gatepass_learned_rules", ("upstream",), "Learned rules that gatepass applies now"),
    Declared(
        "gatepass_upstream_rejects_token",
        ("upstream",),
        "1 after the upstream rejected its token, until it accepts one",
    ),
    Declared(
        "gatepass_target_available",
        ("upstream", "model"),
        "1 while a target of a model takes requests. 0 while it is ejected (until a request succeeds) or waits after"
        " a 429. Only for models with several targets or a breaker, by the upstream's model name. Of a pattern: 0 while"
        " one of its models is kept away",
    ),
    Declared("gatepass_target_in_flight", ("upstream", "model"), "Attempts in progress at the target"),
    Declared("gatepass_target_ejections_total", ("upstream", "model"), "How often its breaker ejected the target"),
    Declared("gatepass_requests_in_flight", REQUEST_LABELS, "Requests in progress"),
    Declared(
        "gatepass_token_expires_in_seconds",
        ("credential",),
        "Time until the token expires; +Inf for a key that does not expire",
    ),
    Declared("gatepass_token_age_seconds", ("credential",), "Time since the token was requested"),
    Declared("gatepass_token_usable", ("credential",), "1 while a valid token is held"),
    Declared(
        "gatepass_token_fetches_total",
        ("credential",),
        "Token fetches, with failed ones. A fetch is counted by the process that called the token endpoint",
    ),
    Declared("gatepass_token_fetch_failures_total", ("credential",), "Failed token fetches"),
    Declared(
        "gatepass_key_expires_in_seconds",
        ("caller", "key_id"),
        "Time until the key of a client ends. Only keys with an end, of which the first 200 to end",
    ),
    Declared(
        "gatepass_limit_left_ratio",
        ("kind", "name", "limit"),
        "The part that is left of a limit of the calendar, from 1 down to 0, since its first request. Only the"
        " 200 with the smallest part. kind is end_user, caller, jwt (the most used one of a row's callers),"
        " group, model or upstream",
    ),
    Declared(
        "gatepass_upstream_connections",
        ("upstream", "state"),
        "Connections to the upstream, by state: busy, idle",
    ),
    Declared("gatepass_upstream_connections_limit", ("upstream",), "The value of max_connections of the upstream"),
    Declared("gatepass_queue_waiting_requests", ("upstream",), "Requests that wait for a place at the full upstream"),
    Declared("gatepass_pool_waiting_requests", ("upstream",), "Requests that wait for a free connection"),
    Declared("gatepass_mcp_streams", (), "Streams of MCP clients that wait for events"),
    Declared(
        "gatepass_store_up",
        (),
        "1 while gatepass can read and write the shared store, and all processes use one encryption key. Absent"
        " without a store",
    ),
    Declared(
        "gatepass_limits_store_up",
        (),
        "0 while the store cannot count the limits of use, so that each process counts for itself, else 1."
        " Absent without a store",
    ),
    Declared(
        "gatepass_store_operations_total",
        ("operation", "outcome"),
        "Operations of the shared store, by outcome: ok, failed, skipped (not sent in the second after a failure,"
        " or because the encryption key differs)",
    ),
)
"""The metrics that are read at a scrape."""
SERIES = (
    *("gatepass_attempts_total", "gatepass_input_tokens_total", "gatepass_output_tokens_total"),
    *("gatepass_cached_input_tokens_total", "gatepass_reasoning_tokens_total", "gatepass_request_duration_seconds"),
    *("gatepass_time_to_first_token_seconds", "gatepass_time_per_output_token_seconds"),
)
"""The metrics of each `Series`, in the order of its members."""


class Cell:
    """The value of one metric for one combination of labels. Of a histogram it is the sum of the durations.

    `counts[i]` is for durations up to `bounds_s[i]`, the last one for the longer. `samples` are the names of its lines
    in a scrape: of a histogram the buckets, the count and the sum.
    """

    __slots__ = ("bounds_s", "counts", "samples", "value")

    def __init__(self, bounds_s: Sequence[float] = (), samples: Sequence[str] = ()) -> None:
        self.bounds_s = bounds_s
        self.samples = samples
        self.counts = [0] * (len(bounds_s) + 1)
        self.value: float = 0  # an int adds an int in half the time of a float

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds_s, seconds)] += 1  # `le` includes its bound
        self.value += seconds


ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
"""What the text format requires in a label value."""
Samples = dict[str, float]
"""Values by the name and the labels of the sample, as a line of a scrape begins."""


class Family:
    """One metric: its cells by their label values.

    It is a histogram if it has bounds, a counter if its name ends with `_total`, else a gauge.
    """

    def __init__(self, declared: Declared) -> None:
        self.name, self.labels, self.bounds_s = declared.name, declared.labels, declared.bounds_s
        is_counter = self.name.endswith("_total")
        kind = "histogram" if self.bounds_s else "counter" if is_counter else "gauge"
        self.head = head(self.name, declared.meaning, kind)
        self.lines = len(self.bounds_s) + 3 if self.bounds_s else 1
        """The lines of one cell."""
        self.hides_zeros = is_counter and self.labels == REQUEST_LABELS
        """`Series` makes a cell of each, and most use few."""
        self.cells: dict[Labels, Cell] = {}

    def of(self, labels: Labels) -> Cell:
        """Return the cell of these labels. It is exposed from now on. A caller that adds often keeps it."""
        if (cell := self.cells.get(labels)) is None:
            pairs = sorted(zip(self.labels, labels, strict=True))
            # Prometheus does not tell a label without a value from one that is missing
            shown = ",".join(f'{label}="{value.translate(ESCAPED)}"' for label, value in pairs if value)
            suffix = f"{{{shown}}}" if shown else ""
            samples = [f"{self.name}{suffix}"]
            if self.bounds_s:
                bounds = [*map(str, map(float, self.bounds_s)), "+Inf"]
                samples = [f'{self.name}_bucket{{le="{bound}"{shown and ","}{shown}}}' for bound in bounds]
                samples += [f"{self.name}_count{suffix}", f"{self.name}_sum{suffix}"]
            cell = self.cells[labels] = Cell(self.bounds_s, samples)
        return cell

    def counts(self) -> tuple[int, ...]:
        """Return the sum over all cells of a histogram, as `Cell.counts`."""
        return tuple(map(sum, zip(*(cell.counts for cell in self.cells.values()), strict=True)))

    def samples(self) -> Samples:
        """Return all samples, of a histogram those with a value: each would have twenty lines."""
        if not self.bounds_s:
            shown = [one for one in self.cells.values() if one.value or not self.hides_zeros]
            return {one.samples[0]: one.value for one in shown}
        found: Samples = {}
        for cell in self.cells.values():
            reached = [*accumulate(cell.counts)]  # Prometheus adds the counts of all smaller buckets to each bucket
            if reached[-1]:
                found.update(zip(cell.samples, (*reached, reached[-1], cell.value), strict=True))
        return found


def head(name: str, text: str, kind: str) -> str:
    """Return the two lines before the samples of a metric."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


class Series(msgspec.Struct):
    """The cells of one combination of caller, group, model, upstream and operation."""

    labels: Labels
    ok: dict[int | None, Cell]
    """The requests that succeeded, by status."""
    attempts: Cell
    input_tokens: Cell
    output_tokens: Cell
    cached_tokens: Cell
    reasoning_tokens: Cell
    duration: Cell
    first_token: Cell
    per_token: Cell
    added: Cell

    def add_tokens(self, prompt: int | None, completion: int | None, cached: int | None, reasoning: int | None) -> None:
        """Add the tokens that one reply reports. None: the upstream did not report this number."""
        cells = self.input_tokens, self.output_tokens, self.cached_tokens, self.reasoning_tokens
        for cell, count in zip(cells, (prompt, completion, cached, reasoning), strict=True):
            if count and count <= MAX_TOKENS:
                cell.value += count


class Sample(NamedTuple):
    """What a scrape reads from the objects of AppState."""

    values: Mapping[str, Mapping[Labels, float]] = {}
    """By metric. One that is missing is not exposed."""
    in_flight: Sequence[Labels] = ()
    """The key of each request in flight, as in `Metrics.series`."""


class UpstreamCounts(msgspec.Struct):
    """The requests that ended at one upstream, and those that failed there as `is_failure` says.

    The last of those has its id, its code, its kind and when it ended.
    """

    requests: int = 0
    errors: int = 0
    rejected: int = 0
    """Those that ended with an error of another kind, such as a 4xx."""
    in_a_row: int = 0
    """How many failed since the last one that succeeded."""
    has_served: bool = False
    """One succeeded since the start, or since a reload changed the upstream's settings."""
    began_s: float = 0.0
    """When the first of them ended."""
    last_failed: tuple[str, str, str, float] | None = None
    """The last one that failed. None after a reload that changed the upstream's settings."""
    test: str = ""
    """The command that tests the upstream with its model."""

    def answered(self, status: int | None) -> None:
        """End failures to connect after a reply with `status`, None without one."""
        if status is not None and self.last_failed is not None and self.last_failed[2] in NOT_REACHED:
            self.in_a_row = 0

    def add_error(self, last: tuple[str, str, str, float], test: str) -> None:
        """Count an error. `test` is the command that tests the upstream."""
        self.errors += 1
        self.began_s = self.began_s if self.in_a_row else last[3]
        self.in_a_row, self.last_failed, self.test = self.in_a_row + 1, last, test


class Totals(msgspec.Struct, frozen=True):
    """Sums since the start of a process, or in a time: of requests, and of all times of `Cell.counts`.

    `by_upstream` has the requests of each upstream, those that failed at it, with attempts that another target
    followed, and those that ended with another error. `by_caller` has the requests, errors and tokens of each caller.
    `by_code` has the errors by the code and the kind that the list of requests shows, with refused connections.
    """

    requests: int = 0
    errors: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    first_token_counts: tuple[int, ...] = ()
    duration_counts: tuple[int, ...] = ()
    by_upstream: Mapping[str, tuple[int, int, int]] = msgspec.field(default_factory=dict)
    by_caller: Mapping[str, tuple[int, int, int]] = msgspec.field(default_factory=dict)
    by_code: Mapping[tuple[str, str], tuple[int]] = msgspec.field(default_factory=dict)

    def since(self, before: Totals) -> Totals:
        """Return what was added after `before`."""
        return self.plus(before, -1)

    def plus(self, other: Totals, sign: int = 1) -> Totals:
        return Totals(*(_combined(one, two, sign) for one, two in zip(astuple(self), astuple(other), strict=True)))


def _combined(one: Any, two: Any, sign: int) -> Any:
    # not inside `plus`: a function that names itself is a reference cycle, which each request would leave behind
    if isinstance(one, int):
        return one + sign * two
    if isinstance(one, Mapping):
        return {name: _combined(one.get(name, ()), two.get(name, ()), sign) for name in {**one, **two}}
    return tuple(a + sign * b for a, b in zip_longest(one, two, fillvalue=0))


def has_many_errors(requests: int, errors: int) -> bool:
    """Return whether an upstream with these requests and errors in 15 minutes is not called healthy."""
    return errors >= MANY and errors > OFTEN * requests


class Metrics(Observer):
    """The metrics of one app. Not global, because a process can have several.

    `mask` hides secrets in names that clients choose.
    """

    def __init__(self, mask: Callable[[str], str] = str) -> None:
        self.series: dict[Labels, Series] = {}
        """By the caller, model, upstream and operation as a request has them. `of` finds those that are not here."""
        self.last_used_s: dict[str, float] = {}
        """When the last request of each caller ended, by `Clock.now`."""
        self.fetch_lists: Callable[[], object] = lambda: None
        """Starts to fetch the model lists of the upstreams that have none, or an old one. See `models_listed`."""
        self._by_labels: dict[Labels, Series] = {}
        self._sample: Callable[[], Sample] = Sample
        self._configured_name: Callable[[str], str | None] = lambda _: None
        self._listed: dict[str, frozenset[str]] = {}
        self._has_unlisted = False
        self._tools: defaultdict[str, set[str]] = defaultdict(set)
        self._groups: Mapping[str, str] = {}
        self._mask = mask
        self._by_upstream: defaultdict[str, UpstreamCounts] = defaultdict(UpstreamCounts)
        self._by_code: Counter[tuple[str, str]] = Counter()
        """The errors by the code that the client received and its kind, without those of the page."""
        families = self._families = {one.name: Family(one) for one in COUNTED}
        self._sampled = {one.name: Family(one) for one in SAMPLED}
        for outcome in ("reloaded", "unchanged", "refused"):
            # Prometheus sees an increase only of a series that it has seen before
            families["gatepass_reloads_total"].of((outcome,))
        self._bytes_in, self._bytes_out = map(families["gatepass_client_bytes_total"].of, (("in",), ("out",)))
        self._process = ProcessCollector(registry=None)

    def attach(
        self,
        sample: Callable[[], Sample],
        configured_name: Callable[[str], str | None],
        groups: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Set what depends on the configuration. A reload sets it again; all metrics keep their values.

        `sample` is called at a scrape. `configured_name` returns the name or pattern in the configuration that a model
        matches, or None. `groups` has the group of each caller that has one.
        """
        self._sample, self._configured_name, self._groups = sample, configured_name, groups
        self.series.clear()  # its labels come from the names of the old configuration

    def models_listed(self, upstream: str, names: Iterable[str]) -> None:
        """Give the models that `upstream` lists series of their own from now on."""
        self._listed[upstream], self._has_unlisted = frozenset(names), False
        self.series.clear()

    def _tool(self, attempt: AttemptRecord, name: str) -> str:
        tools = self._tools[attempt.upstream]
        if attempt.ran_tool and len(tools) < MAX_NAMES:
            tools.add(name)
        return self._label(name) if name in tools else OTHER

    def _label(self, name: str) -> str:
        """Return a name that a client or an upstream chose as a label shows it."""
        return printable(self._mask(name))

    def of(self, key: Labels) -> Series:
        """Return the series of `key`. An unknown caller, model, upstream or operation is ""."""
        if (found := self.series.get(key)) is not None:
            return found
        labels = self._bounded(self._families["gatepass_attempts_total"], self._labels(key))
        series = self._by_labels.get(labels)
        if series is None:
            cells = [self._cell(name, labels) for name in SERIES]
            cells.append(self._cell("gatepass_added_latency_seconds", labels[3:]))
            series = self._by_labels[labels] = Series(labels, {}, *cells)
        if len(self.series) < MAX_CACHED:
            self.series[key] = series
        return series

    def _labels(self, key: Labels) -> Labels:
        caller, model, upstream, operation = key
        name = NONE
        if model:
            configured = self._configured_name(model)
            name = configured or OTHER  # a client may have invented it
            if configured != model and any(model in listed for listed in self._listed.values()):
                name = self._label(model)
            else:
                self._has_unlisted = self._has_unlisted or configured is None
        return caller or NONE, self._groups.get(caller, ""), name, upstream or NONE, operation

    def _bounded(self, family: Family, labels: Labels) -> Labels:
        """Return `labels`, or the ones that a new cell of `family` has if there are many series."""
        if labels in family.cells:
            return labels
        lines = sum(len(one.cells) * one.lines for one in self._families.values()) + len(self._by_labels)
        hidden: Labels = ("caller", "group") if family.bounds_s and lines >= MAX_SERIES // 2 else ()
        if lines >= MAX_SERIES - SERIES_OF_OTHER:
            hidden = (*REQUEST_LABELS, "name")
        return tuple(
            OTHER if name in hidden and text else text for name, text in zip(family.labels, labels, strict=True)
        )

    def _cell(self, name: str, labels: Labels) -> Cell:
        family = self._families[name]
        return family.of(self._bounded(family, labels))

    def totals(self) -> Totals:
        """Return the sums over all callers, models, upstreams and operations."""
        by_caller: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for (caller, *_, outcome, _), cell in self._families["gatepass_requests_total"].cells.items():
            counts = by_caller[caller]
            counts[0] += int(cell.value)
            counts[1] += int(cell.value) if outcome == "error" else 0
        tokens_in, tokens_out = map(self.family, ("gatepass_input_tokens_total", "gatepass_output_tokens_total"))
        for (caller, *_), cell in (*tokens_in.cells.items(), *tokens_out.cells.items()):
            by_caller[caller][2] += int(cell.value)
        return Totals(
            sum(ended for ended, _, _ in by_caller.values()),
            sum(failed for _, failed, _ in by_caller.values()),
            sum(int(cell.value) for cell in tokens_in.cells.values()),
            sum(int(cell.value) for cell in tokens_out.cells.values()),
            self._families["gatepass_time_to_first_token_seconds"].counts(),
            self._families["gatepass_request_duration_seconds"].counts(),
            {name: (one.requests, one.errors, one.rejected) for name, one in self._by_upstream.items()},
            {caller: (ended, failed, tokens) for caller, (ended, failed, tokens) in by_caller.items()},
            {code: (failed,) for code, failed in self._by_code.items()},
        )

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
        access, attempt, first_byte_s = request.access, request.attempt, request.first_byte_s
        duration_s = request.duration_s or 0.0
        outcome, usage = access.outcome, access.usage
        caller = access.caller or NO_CALLER_ROW * (access.code == NO_CALLER_ROW)
        key = (caller, access.model, "" if attempt is None else attempt.upstream, access.operation)
        series = self.series.get(key) or self.of(key)
        ended_s = self.last_used_s[series.labels[0]] = request.arrived_s + duration_s
        if outcome == "ok":
            (series.ok.get(access.status) or self._requests(series, access, NONE)).value += 1
            series.duration.observe(duration_s)  # a request that fails at once would hide slow ones
        else:
            code = NONE if error is None else error.stable_code
            self._requests(series, access, code).value += 1
        self._bytes_in.value += access.bytes_in
        self._bytes_out.value += access.bytes_out
        if error is not None and not error.is_answer:
            self._count_error(error, series.labels)
        if attempt is None:
            return
        series.attempts.value += attempt.requests
        if attempt.after is not None:
            self._add_earlier(attempt, access)
        self._ended_at(attempt, access, error, ended_s)
        if access.empty_answer:
            self._add("gatepass_empty_answers_total", attempt.upstream)
        if usage is not None:
            series.add_tokens(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
        elif access.mcp_tool:
            labels = (series.labels[0], attempt.upstream, self._tool(attempt, access.mcp_tool), outcome)
            self._cell("gatepass_mcp_tool_calls_total", labels).value += 1
        if first_byte_s is None:
            return
        if outcome == "ok":
            series.added.observe(request.added_s or 0.0)
        if access.events:
            series.first_token.observe(first_byte_s)
            later_tokens = 0 if usage is None else (usage.completion_tokens or 0) - 1
            if later_tokens > 0 and outcome == "ok" and not request.is_synthesized:
                series.per_token.observe((duration_s - first_byte_s) / later_tokens)

    def family(self, name: str) -> Family:
        """Return a metric that is counted when something happens."""
        return self._families[name]

    def _requests(self, series: Series, access: AccessRecord, code: str) -> Cell:
        labels = (*series.labels, str(access.status or NONE), access.outcome, code)
        cell = self._cell("gatepass_requests_total", labels)
        if access.outcome == "ok":
            series.ok[access.status] = cell
        return cell

    def _add(self, name: str, *labels: str) -> None:
        self._families[name].of(labels).value += 1

    def _add_earlier(self, attempt: AttemptRecord, access: AccessRecord) -> None:
        for later, earlier in reversed([*pairwise(attempts_of(attempt))]):
            key = (access.caller, access.model, earlier.upstream, access.operation)
            self.of(key).attempts.value += earlier.requests
            if later.cause in AT_ANOTHER:
                at = self._by_upstream[earlier.upstream]
                at.requests += 1
                if was_passed_over(earlier, later):
                    last = (access.id, earlier.code or "", earlier.kind, earlier.began_s + earlier.duration_s)
                    at.add_error(last, self._test(earlier, access))
                else:
                    at.answered(earlier.status)

    def _ended_at(
        self, attempt: AttemptRecord, access: AccessRecord, error: GatepassError | None, ended_s: float
    ) -> None:
        if not attempt.requests:
            return
        at = self._by_upstream[attempt.upstream]
        at.requests += 1
        if error is None or error.hop != f"upstream:{attempt.upstream}":
            if access.outcome == "ok":
                at.in_a_row, at.has_served = 0, True
        elif is_failure(error.stable_code, error.http_status, error.case):
            last = (access.id, error.public_code, error.stable_code, ended_s)
            at.add_error(last, self._test(attempt, access))
            return
        else:
            at.answered(attempt.status)
        at.rejected += access.outcome == "error"

    def _test(self, attempt: AttemptRecord, access: AccessRecord) -> str:
        return test_command(f"upstream:{attempt.upstream}", self._mask(access.model), access.operation)

    def health(self, upstream: str) -> str:
        """Return `failing` if the last FAILING_IN_A_ROW requests failed at `upstream`, or all of fewer; else `ok`.

        `unknown`: none succeeded or failed there since a reload changed its settings.
        """
        at = self._by_upstream.get(upstream)
        if at is None or not (at.in_a_row or at.has_served):
            return "unknown"
        return "failing" if at.in_a_row >= FAILING_IN_A_ROW or not at.has_served else "ok"

    def settings_changed(self, upstream: str) -> None:
        """Forget the failures of `upstream`, whose settings a reload changed. Its counts stay."""
        if (at := self._by_upstream.get(upstream)) is not None:
            at.has_served, at.in_a_row, at.last_failed = False, 0, None

    def last_failed(self, upstream: str, now_s: float) -> Failures | None:
        """Return the last requests that failed at `upstream`. None if the last one succeeded."""
        at = self._by_upstream.get(upstream)
        if at is None or at.last_failed is None or not at.in_a_row:
            return None
        for_s = round(max(0.0, now_s - at.began_s), 3)
        return Failures(*self._shown(at.last_failed, now_s), at.in_a_row, for_s, at.test)

    def last_error(self, upstream: str, now_s: float) -> Failure | None:
        """Return the last request that failed at `upstream`. None without one."""
        at = self._by_upstream.get(upstream)
        return None if at is None or at.last_failed is None else Failure(*self._shown(at.last_failed, now_s))

    def _shown(self, failed: tuple[str, str, str, float], now_s: float) -> tuple[str, str, str, float]:
        request_id, code, kind, ended_s = failed
        return self._mask(request_id), self._mask(code), kind, round(max(0.0, now_s - ended_s), 3)

    def attempt_repeats(self, attempt: AttemptRecord) -> None:
        if (before := attempt.after) is None:
            return
        self._add("gatepass_repeats_total", before.upstream, attempt.cause or NONE)
        if attempt.cause == "next_target":
            self._add("gatepass_failovers_total", before.upstream, before.kind or NONE)

    def refused(self, refusal: Refusal) -> None:
        self._count_error(refusal.error, (NONE, "", NONE, NONE, NONE), at_page=refusal.at_page)

    def rule_changed(self, change: RuleChange) -> None:
        self._add("gatepass_learned_rule_events_total", change.upstream, change.event)

    def observer_failed(self, observer: str) -> None:
        self._add("gatepass_observer_failures_total", observer)

    def _count_error(self, error: GatepassError, of_request: Labels, *, at_page: bool = False) -> None:
        kind = error.stable_code
        if not at_page:
            shown = self._mask(error.public_code), kind
            is_kept = shown in self._by_code or len(self._by_code) < MOST_CODES
            self._by_code[shown if is_kept else (kind, kind)] += 1
        self._cell("gatepass_errors_total", (*of_request, kind, error.hop)).value += 1

    def limit_hit(self, subject: tuple[str, str], setting: str, count: int) -> None:
        """Count requests that a limit refused. 0: show the series, so that Prometheus sees the first one."""
        kind, name = subject
        self._cell("gatepass_limit_hits_total", (kind, name, setting)).value += count

    def waited_in_queue(self, key: Labels, seconds: float) -> None:
        """Observe a wait of a request, whose `key` is as in `series`."""
        self._cell("gatepass_queue_wait_seconds", self._labels(key)).observe(seconds)

    def waited_for_connection(self, upstream: str, seconds: float) -> None:
        self._families["gatepass_pool_wait_seconds"].of((upstream,)).observe(seconds)

    async def sample_loop_lag(self, every_s: float = LAG_EVERY_S) -> NoReturn:
        """Measure the lag of the running event loop, forever: how late a task continues after a sleep."""
        loop, lag = asyncio.get_running_loop(), self._families["gatepass_event_loop_lag_seconds"].of(())
        while True:
            due_s = loop.time() + every_s
            await asyncio.sleep(every_s)
            lag.observe(max(0.0, loop.time() - due_s))

    def reloaded(self, outcome: str) -> None:
        self._add("gatepass_reloads_total", outcome)

    def exposition(self) -> bytes:
        return exposition_of(self.samples())

    def scrape(self) -> dict[str, Samples]:
        """Return `samples`. If clients use models that nobody listed, fetch the lists for the next scrapes."""
        if self._has_unlisted:
            self.fetch_lists()
        return self.samples()

    def samples(self) -> dict[str, Samples]:
        """Return the samples by the head of their metric, for `exposition_of`. With MAX_SERIES it takes 10 ms."""
        taken = self._sample()
        in_flight = Counter(self.of(key).labels for key in taken.in_flight)
        own: dict[str, Mapping[Labels, float]] = {
            # with zeros, so that a graph falls to 0
            "gatepass_requests_in_flight": {labels: in_flight[labels] for labels in self._by_labels},
            "gatepass_log_lines_dropped_total": {(): dropped_lines()},
        }
        families = [*self._families.values()]
        for name, values in {**own, **taken.values}.items():
            family = self._sampled[name]
            family.cells = {labels: family.of(labels) for labels in values}
            for labels, value in values.items():
                family.cells[labels].value = float(value)
            families.append(family)
        found = {one.head: one.samples() for one in families}
        for one in self._process.collect():
            name = one.name + ("_total" if one.type == "counter" else "")
            found[head(name, one.documentation, one.type)] = {name: one.samples[0].value}
        return found


def exposition_of(families: dict[str, Samples]) -> bytes:
    """Return the Prometheus text of `Metrics.samples`."""
    lines: list[str] = []
    for of_family, samples in families.items():
        lines.append(of_family)
        lines += [f"{sample} {'+Inf' if value == math.inf else float(value)}\n" for sample, value in samples.items()]
    return "".join(lines).encode()
