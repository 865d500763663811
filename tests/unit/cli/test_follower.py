"""`Follower` of cli/requests.py: each request of overlapping listings once."""

from typing import Any
from urllib.parse import urlencode

from hypothesis import given
from hypothesis import strategies as st

from gatepass.cli.requests import OVERLAP_S, POLL_S, Follower
from gatepass.documents import Summary
from tests.golden.test_stories import listed


def request(number: int, ended: float) -> Summary:
    return listed(id=f"r{number}", ended=ended)


def listing(requests: list[Summary], written_s: float, after_s: float) -> list[Summary]:
    found = [one for one in requests if after_s <= end(one) <= written_s]
    return sorted(found, key=end, reverse=True)


def end(one: Summary) -> float:
    assert one.ended is not None
    return one.ended


@given(ends=st.lists(st.floats(0, 5), max_size=40), delays=st.lists(st.floats(0, 0.8), min_size=12, max_size=12))
def test_each_request_is_returned_once(ends: list[float], delays: list[float]):
    requests = [request(number, ended) for number, ended in enumerate(ends)]
    follower, found, at_s = Follower(1_000), list[Any](), 0.0
    for delay_s in [*delays, 0.0]:
        new = follower.new(listing(requests, at_s, follower.after_s), at_s)
        assert [*map(end, new)] == sorted(map(end, new))
        found += new
        at_s += delay_s + POLL_S
    assert sorted(one.id for one in found) == sorted(one.id for one in requests)


def test_only_the_last_requests_of_the_first_listing_are_returned():
    first = [request(number, ended=number) for number in (3, 2, 1)]
    follower = Follower(2)
    assert [one.id for one in follower.new(first, 3.5)] == ["r2", "r3"]
    assert [one.id for one in follower.new([request(5, 5.0), request(4, 4.0)], 6.0)] == ["r4", "r5"]
    assert Follower(0).new(first, 3.5) == []


def test_the_end_of_the_overlap_is_exact():
    # with six digits the next listing began 0.4 µs earlier, where nothing was remembered any more
    follower, one = Follower(10), request(1, 10.1234564 - OVERLAP_S)
    follower.new([one], 10.1234567)
    assert follower.after_s > end(one)
    assert float(urlencode({"t": follower.after_s})[2:]) == follower.after_s


def test_requests_with_the_same_id_are_different():
    assert len(Follower(10).new([request(1, 2.0), request(1, 1.0)], 2.0)) == 2


def test_what_is_remembered_does_not_grow():
    follower = Follower(10)
    for second in range(100):
        follower.new([request(number, second + number / 500) for number in range(500)], second + 1.0)
    assert len(follower._seen) <= 10
