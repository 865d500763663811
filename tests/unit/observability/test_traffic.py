"""The slices of traffic: their times, their sums over workers, and quantiles of bucketed durations."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import (
    TokenUnavailable,
    UpstreamAuth,
    UpstreamClosed,
    UpstreamConnect,
    UpstreamDns,
    UpstreamError,
    UpstreamErrorReply,
)
from gatepass.observability.metrics import DURATION_S, Cell, Metrics, Totals
from gatepass.observability.observer import AccessRecord, AttemptRecord, RequestRecord
from gatepass.observability.story import failed_at
from gatepass.observability.traffic import SLICES, WIDTH_S, Slice, Traffic, merged, quantile, series


def ended(metrics: Metrics, duration_s: float = 0.5, outcome: str = "ok") -> None:
    access = AccessRecord("one", "POST", "/v1/chat/completions", "chat", "app", model="m", outcome=outcome)
    attempt = AttemptRecord("one", "chat", "m", "up", requests=1)
    metrics.request_ended(RequestRecord(access, attempt, 0.0, 0.0, duration_s, None, 0.0), None)


def test_a_request_is_in_the_slice_in_which_it_ended():
    metrics = Metrics()
    traffic = Traffic(metrics)
    traffic.sample(100 * WIDTH_S)
    ended(metrics)
    traffic.sample(101 * WIDTH_S - 1)
    ended(metrics, outcome="error")
    traffic.sample(101 * WIDTH_S + 0.1)
    ended(metrics)
    slices = traffic.slices(101 * WIDTH_S + 2)
    assert [(one.number, one.traffic.requests, one.traffic.errors) for one in slices] == [(100, 2, 1), (101, 1, 0)]
    assert slices[0].traffic.by_upstream == {"up": (2, 0)}
    assert slices[0].traffic.by_caller["app"] == (2, 1, 0)


def test_a_replay_does_not_count_at_an_upstream():
    """Ten replays of a failed request made the page call the upstream failing."""
    metrics = Metrics()
    error = UpstreamClosed("closed", upstream="up")
    for replay_of in ("", "captured", "captured"):
        access = AccessRecord("one", "POST", "/", "chat", "app", outcome="error", replay_of=replay_of)
        first = AttemptRecord("one", "chat", "m", "first")
        attempt = AttemptRecord("one", "chat", "m", "up", cause="next_target", after=first, requests=1)
        metrics.request_ended(RequestRecord(access, attempt, 0.0, 0.0, 1.0, None, 0.0), error)
    assert metrics.totals().by_upstream == {"up": (1, 1), "first": (1, 1)}
    assert metrics.totals().requests == 3


def test_an_attempt_that_the_policy_repeated_counts_as_an_error_of_its_upstream_and_a_fallback_does_not():
    metrics = Metrics()
    access = AccessRecord("one", "POST", "/", "chat", "app", outcome="ok")
    first = AttemptRecord("one", "chat", "m", "first", code="upstream_error", requests=1)
    again = AttemptRecord("one", "chat", "m", "first", cause="retry", after=first, requests=1)
    last = AttemptRecord("one", "chat", "m", "long", cause="context_fallback", after=again, requests=1)
    request = RequestRecord(access, last, 0.0, 0.0, 1.0, None, 0.0)
    metrics.request_ended(request, None)
    assert metrics.totals().by_upstream == {"first": (1, 1), "long": (1, 0)}
    assert [failed_at(request, name) for name in ("first", "long")] == [True, False]


def test_an_upstream_whose_requests_all_go_to_the_next_target_is_failing():
    """A region that refused every connection was healthy, because its neighbour answered each request."""
    metrics = Metrics()

    def request(last: AttemptRecord) -> tuple[str, str]:
        access = AccessRecord("one", "POST", "/", "chat", "app", model="m", outcome="ok")
        metrics.request_ended(RequestRecord(access, last, 5.0, 0.0, 1.0, None, 0.0), None)
        return metrics.health("east"), metrics.health("west")

    def failed_over(outcome: str, code: str, status: int | None = None, to: str = "west") -> AttemptRecord:
        first = AttemptRecord("one", "chat", "m", "east", outcome=outcome, code=code, status=status, requests=1)
        first.began_s, first.duration_s = 5.0, 0.5
        return AttemptRecord("one", "chat", "m", to, cause="next_target", after=first, requests=1)

    assert request(failed_over("connection_failed", "upstream_connect")) == ("failing", "ok")
    last = {"id": "one", "code": "upstream_connect", "test": "gatepass doctor m --call", "age_s": 10.5, "for_s": 10.5}
    assert metrics.last_failed("east", 16.0) == {"in_a_row": 1, **last}
    limited = failed_over("error_reply", "rate_limit_exceeded", 429)
    assert request(limited) == ("ok", "ok")  # it was reached
    dead = failed_over("error_reply", "upstream_error", 500)
    assert [request(dead) for _ in range(3)] == [("ok", "ok"), ("ok", "ok"), ("failing", "ok")]
    assert request(failed_over("error_reply", "upstream_error", 500, to="east")) == ("ok", "ok")
    assert metrics.last_failed("east", 16.0) is None
    no_token = failed_over("nothing_written", "token_unavailable")
    assert [request(no_token) for _ in range(3)] == [("ok", "ok")] * 3


def test_a_request_without_a_token_does_not_count_at_its_upstream():
    """The page called an upstream healthy that no request had reached."""
    metrics = Metrics()
    access = AccessRecord("one", "POST", "/", "chat", "app", outcome="error")
    error, attempt = TokenUnavailable("no token", credential="corp"), AttemptRecord("one", "chat", "m", "up")
    metrics.request_ended(RequestRecord(access, attempt, 0.0, 0.0, 1.0, None, 0.0), error)
    assert metrics.health("up") == "unknown"


def test_an_upstream_is_failing_after_three_failures_in_a_row():
    """Three failures after ten successes in a slice were 23 %, which the page called healthy."""
    metrics = Metrics()

    def request(error: UpstreamError | None = None, **fields: Any) -> str:
        outcome = "error" if error else "ok"
        access = AccessRecord("one", "POST", "/", "chat", "app", model="m", outcome=outcome, **fields)
        attempt = AttemptRecord("one", "chat", "m", "up", requests=1)
        metrics.request_ended(RequestRecord(access, attempt, 5.0, 0.0, 1.0, None, 0.0), error)
        return metrics.health("up")

    dead, refuses = UpstreamConnect("refused", upstream="up"), UpstreamAuth("rejected", upstream="up", status=401)
    too_long = UpstreamErrorReply("too many tokens", upstream="up", status=400)
    assert metrics.health("up") == "unknown"
    assert [request(dead), request()] == ["failing", "ok"]  # of one request all failed
    assert [request(too_long) for _ in range(4)] == ["ok"] * 4
    assert [request(dead), request(refuses), request(dead, replay_of="captured"), request(refuses)] == [
        *("ok", "ok", "ok", "failing")
    ]
    last = {"id": "one", "code": "upstream_auth", "test": "gatepass doctor m --call", "age_s": 10.0, "for_s": 10.0}
    assert metrics.last_failed("up", 16.0) == {"in_a_row": 3, **last}
    assert request() == "ok"
    assert metrics.last_failed("up", 16.0) is None


@pytest.mark.parametrize(
    ("code", "status", "answer", "expected"),
    [
        ("dns", 404, "unknown model", ("ok", None)),
        ("dns", 400, "too long", ("ok", None)),
        ("dns", 503, "busy", ("failing", "upstream_error")),
        ("down", 400, "too long", ("failing", "upstream_error")),
        ("dns", None, "too long", ("failing", "upstream_dns")),  # the upstream did not answer
    ],
)
def test_a_reply_ends_a_connection_failure_and_no_other(
    code: str, status: int | None, answer: str, expected: tuple[str, str | None]
):
    metrics = Metrics()

    def request(error: UpstreamError, status: int | None = None) -> None:
        access = AccessRecord("one", "POST", "/", "chat", "app", model="m", outcome="error")
        attempt = AttemptRecord("one", "chat", "m", "up", requests=1, status=status)
        metrics.request_ended(RequestRecord(access, attempt, 5.0, 0.0, 1.0, None, 0.0), error)

    down = UpstreamErrorReply("down", upstream="up", status=503)
    for _ in range(4):
        request(UpstreamDns("no such host", upstream="up") if code == "dns" else down)
    request(UpstreamErrorReply(answer, upstream="up", status=status or 400), status)
    shown = metrics.last_failed("up", 16.0)
    assert (metrics.health("up"), shown and shown["code"]) == expected


@pytest.mark.parametrize(
    ("requests", "failed", "many"), [(2, 1, set()), (10, 4, set()), (10, 5, {"up"}), (50, 5, set())]
)
def test_an_upstream_has_many_errors_from_five_above_a_tenth_of_15_minutes(requests: int, failed: int, many: set[str]):
    metrics = Metrics()
    traffic = Traffic(metrics)
    for number in range(requests):
        error = UpstreamErrorReply("slow down", upstream="up", status=429) if number < failed else None
        access = AccessRecord(f"r-{number}", "POST", "/", "chat", "app", outcome="error" if error else "ok")
        attempt = AttemptRecord("one", "chat", "m", "up", requests=1)
        traffic.sample(number * WIDTH_S)
        metrics.request_ended(RequestRecord(access, attempt, 5.0, 0.0, 1.0, None, 0.0), error)
    assert traffic.with_many_errors((requests - 1) * WIDTH_S) == many
    assert metrics.last_error("up", 16.0) == {"id": f"r-{failed - 1}", "code": "upstream_error", "age_s": 10.0}
    assert traffic.with_many_errors((requests - 1 + SLICES) * WIDTH_S) == set()


def test_only_15_minutes_are_kept():
    metrics = Metrics()
    traffic = Traffic(metrics)
    for number in range(200):
        ended(metrics)
        traffic.sample(number * WIDTH_S)
    slices = traffic.slices(199 * WIDTH_S)
    assert [slices[0].number, slices[-1].number, len(slices)] == [140, 199, SLICES]
    assert [one.number for one in traffic.slices(250 * WIDTH_S)] == [*range(191, 200), 250]


def test_the_slices_of_two_workers_are_added_by_their_times():
    wall_s = 1000.0 * WIDTH_S + 3
    one = [Slice(1000, Totals(requests=2, by_upstream={"a": (2, 1)})), Slice(999, Totals(requests=1))]
    other = [Slice(1000, Totals(requests=3, by_upstream={"a": (3, 0), "b": (1, 0)})), Slice(900, Totals(requests=9))]
    sent = msgspec.json.decode(msgspec.json.encode(other), type=list[Slice])
    totals = merged([*one, *sent], wall_s)
    assert [one.requests for one in totals[-3:]] == [0, 1, 5]
    assert totals[-1].by_upstream == {"a": (5, 1), "b": (1, 0)}
    shown = series(totals, wall_s)
    assert (len(shown["requests"]), shown["ended_at"]) == (SLICES, 1001 * WIDTH_S)
    assert shown["duration_s"]["p50"] == [None] * SLICES
    assert shown["duration_s"]["over_s"] == DURATION_S[-2]


@given(st.lists(st.floats(0.0, 900.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_the_upper_bound_of_its_bucket(values: list[float], share: float):
    histogram = Cell(DURATION_S)
    for value in values:
        histogram.observe(value)
    found = quantile(histogram.counts, DURATION_S, share)
    assert found is not None
    exact = sorted(values)[max(0, -(-len(values) * int(share * 100) // 100) - 1)]
    assert found == next((bound for bound in DURATION_S if exact <= bound), DURATION_S[-1])
    assert exact <= found if found <= DURATION_S[-2] else exact > DURATION_S[-2]


def test_one_slow_request_is_not_spread_over_its_bucket():
    histogram = Cell(DURATION_S)
    histogram.observe(9.61)
    assert [quantile(histogram.counts, DURATION_S, share) for share in (0.5, 0.95, 0.99)] == [10.24] * 3


@pytest.mark.parametrize("counts", [(), (0, 0, 0)])
def test_without_values_there_is_no_quantile(counts: tuple[int, ...]):
    assert quantile(counts, (1.0, 2.0), 0.5) is None
