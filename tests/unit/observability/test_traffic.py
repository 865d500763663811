"""The slices of traffic: their times, their places, and quantiles of bucketed durations."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.documents import Failure, Failures
from gatepass.errors import (
    GatepassError,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamClosed,
    UpstreamConnect,
    UpstreamDns,
    UpstreamErrorReply,
)
from gatepass.observability.metrics import DURATION_S, Cell, Metrics, Totals, has_many_errors
from gatepass.observability.observer import AccessRecord, AttemptRecord, RequestRecord
from gatepass.observability.traffic import SLICES, WIDTH_S, Slice, Traffic, placed, quantile, series

DEAD = UpstreamConnect("refused", upstream="up")
DOWN = UpstreamErrorReply("down", upstream="up", status=503)
TOO_LONG = UpstreamErrorReply("too many tokens", upstream="up", status=400)
REFUSES = UpstreamAuth("rejected", upstream="up", status=401)
NO_HOST = UpstreamDns("no such host", upstream="up")

TEST = "gatepass doctor m --call"


class Served:
    def __init__(self) -> None:
        self.metrics = Metrics()

    def end(
        self, error: GatepassError | None = None, at: str = "up", after: AttemptRecord | None = None, **fields: Any
    ) -> str:
        """End a request, and return the health of its last upstream."""
        outcome = "error" if error else fields.pop("outcome", "ok")
        access = AccessRecord("one", "POST", "/", "chat", "app", model="m", outcome=outcome)
        cause = fields.pop("cause", "next_target" if after else None)
        attempt = AttemptRecord("one", "chat", "m", at, cause=cause, after=after, **{"requests": 1, **fields})
        self.metrics.request_ended(RequestRecord(access, attempt, 5.0, 0.0, 1.0, None, 0.0), error)
        return self.metrics.health(at)


def failed(at: str, outcome: str = "error_reply", code: str = "upstream_error", **fields: Any) -> AttemptRecord:
    return AttemptRecord(
        "one", "chat", "m", at, began_s=5.0, outcome=outcome, code=code, kind=code, requests=1, duration_s=0.5, **fields
    )


def test_a_request_is_in_the_slice_in_which_it_ended():
    served = Served()
    traffic = Traffic(served.metrics)
    traffic.sample(100 * WIDTH_S)
    served.end()
    traffic.sample(101 * WIDTH_S - 1)
    served.end(TokenUnavailable("no token", credential="corp"))
    traffic.sample(101 * WIDTH_S + 0.1)
    served.end()
    slices = traffic.slices(101 * WIDTH_S + 2)
    assert [(one.number, one.traffic.requests, one.traffic.errors) for one in slices] == [(100, 2, 1), (101, 1, 0)]
    assert slices[0].traffic.by_upstream == {"up": (2, 0, 1)}
    assert slices[0].traffic.by_caller["app"] == (2, 1, 0)


def test_a_request_without_a_token_does_not_count_at_an_upstream():
    served = Served()
    assert served.end(TokenUnavailable("no token", credential="corp"), requests=0) == "unknown"
    served.end(UpstreamClosed("closed", upstream="up"), after=failed("first"))
    assert served.metrics.totals().by_upstream == {"up": (1, 1, 0), "first": (1, 1, 0)}
    assert served.metrics.totals().requests == 2


def test_an_attempt_that_the_policy_repeated_counts_as_an_error_of_its_upstream_and_a_new_token_does_not():
    metrics = Metrics()
    access = AccessRecord("one", "POST", "/", "chat", "app", outcome="ok")
    first = AttemptRecord("one", "chat", "m", "first", code="upstream_error", requests=1)
    again = AttemptRecord("one", "chat", "m", "first", cause="retry", after=first, requests=1)
    last = AttemptRecord("one", "chat", "m", "long", cause="new_token", after=again, requests=1)
    request = RequestRecord(access, last, 0.0, 0.0, 1.0, None, 0.0)
    metrics.request_ended(request, None)
    assert metrics.totals().by_upstream == {"first": (1, 1, 0), "long": (1, 0, 0)}


def test_an_upstream_whose_requests_all_go_to_the_next_target_is_failing():
    """A region that refused every connection was healthy, because its neighbour answered each request."""
    served = Served()

    def health(after: AttemptRecord, at: str = "west") -> tuple[str, str]:
        served.end(at=at, after=after)
        return served.metrics.health("east"), served.metrics.health("west")

    assert health(failed("east", "connection_failed", "upstream_connect")) == ("failing", "ok")
    last: Any = {
        "id": "one",
        "code": "upstream_connect",
        "kind": "upstream_connect",
        "test": TEST,
        "age_s": 10.5,
        "for_s": 10.5,
    }
    assert served.metrics.last_failed("east", 16.0) == Failures(in_a_row=1, **last)
    assert health(failed("east", code="rate_limit_exceeded", status=429)) == ("unknown", "ok")  # it was reached
    dead = failed("east", status=500)
    assert [health(dead) for _ in range(3)] == [("failing", "ok")] * 3
    assert health(dead, at="east") == ("ok", "ok")
    assert served.metrics.last_failed("east", 16.0) is None
    assert [health(failed("east", "nothing_written", "token_unavailable")) for _ in range(3)] == [("ok", "ok")] * 3


def test_an_upstream_is_failing_after_three_failures_in_a_row():
    """Three failures after ten successes in a slice were 23 %, which the page called healthy."""
    served = Served()
    limited = UpstreamErrorReply("slow down", upstream="up", status=429)
    assert [served.end(limited, status=429), served.end(outcome="client_gone")] == ["unknown"] * 2
    assert [served.end(DOWN), served.end(limited)] == ["failing"] * 2  # of one request all failed
    assert [served.end(DEAD), served.end()] == ["failing", "ok"]
    assert [served.end(TOO_LONG) for _ in range(4)] == ["ok"] * 4
    assert [served.end(DEAD), served.end(REFUSES), served.end(REFUSES)] == ["ok", "ok", "failing"]
    last: Any = {
        "id": "one",
        "code": "upstream_auth",
        "kind": "upstream_auth",
        "test": TEST,
        "age_s": 10.0,
        "for_s": 10.0,
    }
    assert served.metrics.last_failed("up", 16.0) == Failures(in_a_row=3, **last)
    assert served.end() == "ok"
    assert served.metrics.last_failed("up", 16.0) is None


@pytest.mark.parametrize(
    ("before", "answer", "status", "expected"),
    [
        (NO_HOST, UpstreamErrorReply("unknown model", upstream="up", status=404), 404, ("unknown", None)),
        (NO_HOST, UpstreamErrorReply("busy", upstream="up", status=503), 503, ("failing", "upstream_error")),
        (DOWN, TOO_LONG, 400, ("failing", "upstream_error")),
        (NO_HOST, TOO_LONG, None, ("failing", "upstream_dns")),  # the upstream did not answer
    ],
)
def test_a_reply_ends_a_connection_failure_and_no_other(
    before: GatepassError, answer: GatepassError, status: int | None, expected: tuple[str, str | None]
):
    served = Served()
    for _ in range(4):
        served.end(before)
    served.end(answer, status=status)
    shown = served.metrics.last_failed("up", 16.0)
    assert (served.metrics.health("up"), shown and shown.code) == expected


@pytest.mark.parametrize(
    ("requests", "failures", "many"), [(2, 1, False), (10, 4, False), (10, 5, True), (50, 5, False)]
)
def test_an_upstream_has_many_errors_from_five_above_a_tenth_of_15_minutes(requests: int, failures: int, many: bool):
    served = Served()
    traffic = Traffic(served.metrics)
    for number in range(requests):
        traffic.sample(number * WIDTH_S)
        served.end(DOWN if number < failures else None)
    assert traffic.total((requests - 1) * WIDTH_S).by_upstream == {"up": (requests, failures, 0)}
    assert has_many_errors(requests, failures) == many
    assert served.metrics.last_error("up", 16.0) == Failure("one", "upstream_error", "upstream_error", 10.0)
    assert traffic.total((requests - 1 + SLICES) * WIDTH_S).by_upstream == {"up": (0, 0, 0)}


def test_only_15_minutes_are_kept():
    served = Served()
    traffic = Traffic(served.metrics)
    for number in range(200):
        served.end()
        traffic.sample(number * WIDTH_S)
    slices = traffic.slices(199 * WIDTH_S)
    assert [slices[0].number, slices[-1].number, len(slices)] == [140, 199, SLICES]
    assert [one.number for one in traffic.slices(250 * WIDTH_S)] == [*range(191, 200), 250]


def test_slices_are_placed_by_their_times():
    wall_s = 1000.0 * WIDTH_S + 3
    slices = [Slice(1000, Totals(requests=2, by_upstream={"a": (2, 1, 1)})), Slice(999, Totals(requests=1))]
    slices += [
        Slice(1000, Totals(requests=3, by_upstream={"a": (3, 0, 2), "b": (1, 0, 0)})),
        Slice(900, Totals(requests=9)),
    ]
    totals = placed(slices, wall_s)
    assert [one.requests for one in totals[-3:]] == [0, 1, 5]
    assert totals[-1].by_upstream == {"a": (5, 1, 3), "b": (1, 0, 0)}
    shown = series(totals, wall_s)
    assert (len(shown.requests), shown.ended_at) == (SLICES, 1001 * WIDTH_S)
    assert shown.duration_s.p50 == [None] * SLICES
    assert shown.duration_s.over_s == DURATION_S[-2]


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
