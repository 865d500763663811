"""`Follower` of cli/requests.py: each request of overlapping listings once."""

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.cli.requests import POLL_S, WORKER_S, Follower


def request(number: int, ended: float, worker: str = "") -> dict[str, Any]:
    return {"id": f"r{number}", "worker": worker, "ended": ended}


def listing(requests: list[dict[str, Any]], written: dict[str, float], after_s: float) -> list[dict[str, Any]]:
    """What the workers list, each at its own moment."""
    found = [one for one in requests if after_s <= one["ended"] <= written[one["worker"]]]
    return sorted(found, key=lambda one: -one["ended"])


@given(
    ends=st.lists(st.tuples(st.floats(0, 5), st.sampled_from("ab")), max_size=40),
    delays=st.lists(st.tuples(st.floats(0, 0.8), st.floats(0, 0.8)), min_size=12, max_size=12),
)
def test_each_request_is_returned_once_whenever_the_workers_answer(
    ends: list[tuple[float, str]], delays: list[tuple[float, float]]
):
    requests = [request(number, ended, worker) for number, (ended, worker) in enumerate(ends)]
    follower, found, at_s = Follower(1_000), list[Any](), 0.0
    for delay_a, delay_b in [*delays, (0.0, 0.0)]:
        written = {"a": at_s + delay_a, "b": at_s + delay_b}
        took_s = max(delay_a, delay_b)
        new = follower.new(listing(requests, written, follower.after_s), max(written.values()), took_s)
        assert [one["ended"] for one in new] == sorted(one["ended"] for one in new)
        found += new
        at_s += took_s + POLL_S
    assert sorted(one["id"] for one in found) == sorted(one["id"] for one in requests)


def test_only_the_last_requests_of_the_first_listing_are_returned():
    first = [request(number, ended=number) for number in (3, 2, 1)]
    follower = Follower(2)
    assert [one["id"] for one in follower.new(first, 3.5, 0.0)] == ["r2", "r3"]
    assert [one["id"] for one in follower.new([request(5, 5.0), request(4, 4.0)], 6.0, 0.0)] == ["r4", "r5"]
    assert Follower(0).new(first, 3.5, 0.0) == []


def test_a_worker_that_did_not_answer_loses_no_request():
    follower = Follower(10)
    follower.new([], 1.0, 0.0)
    assert follower.new([request(1, 1.5, "a")], 2.0, WORKER_S) == [request(1, 1.5, "a")]
    assert follower.after_s == 1.0
    late = [request(1, 1.5, "a"), request(2, 1.2, "b")]
    assert follower.new(late, 3.0, 0.0) == [request(2, 1.2, "b")]


def test_the_end_of_the_overlap_is_exact():
    # with six digits the next listing began 0.4 µs earlier, where nothing was remembered any more
    follower, one = Follower(10), request(1, 10.1234564)
    follower.new([one], 10.1234567, 0.0000002)
    assert follower.after_s > one["ended"]
    assert float(urlencode({"t": follower.after_s})[2:]) == follower.after_s


@pytest.mark.parametrize("ended", [2.0, 1.0])
def test_requests_with_the_same_id_are_different(ended: float):
    follower = Follower(10)
    assert len(follower.new([request(1, 1.0, "b"), request(1, ended, "a")], 1.0, 0.0)) == 2


def test_what_is_remembered_does_not_grow():
    follower = Follower(10)
    for second in range(100):
        follower.new([request(number, second + number / 500) for number in range(500)], second + 1.0, 0.01)
    assert len(follower._seen) <= 10
