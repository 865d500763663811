"""Which connections close when one address holds too many."""

import pytest

from gatepass.server.connection_shares import IDLE_S, ConnectionShares, UnfinishedHeads
from tests.memory import traced_memory

CLIENT = "192.0.2.7"


@pytest.mark.parametrize("is_behind_proxy", [False, True])
def test_the_oldest_of_the_address_with_the_most_closes_directly_and_behind_a_proxy(is_behind_proxy):
    shares: ConnectionShares[int] = ConnectionShares(10, 4, 1)
    for connection, address in enumerate(["198.51.100.1", *[CLIENT] * 14]):
        assert shares.connect(connection, None if is_behind_proxy else address, 0.0) == []
        shares.begin_unauthenticated(connection, 0.0)
        shares.end_unauthenticated(connection, address, 0.0)
    closed = [one for new in range(15, 20) for one in shares.connect(new, "203.0.113.1", 100 * IDLE_S)]
    assert closed == [1, 2, 3, 4, 5]
    assert len(shares) == 15


def test_addresses_that_have_left_take_no_memory():
    shares: ConnectionShares[str] = ConnectionShares(10, 4, callers=1)
    with traced_memory() as memory:
        for number in range(5_000):
            shares.connect("client", f"192.0.2.{number}", 0.0)
            shares.disconnect("client")
    assert memory.kept_bytes < 10_000


def test_callers_that_have_left_take_no_memory():
    shares: ConnectionShares[str] = ConnectionShares(10, 4, callers=1)
    with traced_memory() as memory:
        for number in range(2_000):
            shares.connect("client", CLIENT, 0.0)
            for caller in (f"caller-{number}", f"other-{number}", f"other-{number}"):  # one connection may change keys
                assert shares.authenticate("client", caller) == []
                shares.begin("client")
                shares.end("client", delivered=True)
            shares.disconnect("client")
    assert memory.kept_bytes < 10_000


def test_unfinished_heads_are_bounded_and_the_largest_without_a_key_closes():
    heads: UnfinishedHeads[int] = UnfinishedHeads(1_000)
    assert heads.hold(1, 400, has_key=True) == []
    assert heads.hold(2, 100, has_key=False) == heads.hold(3, 300, has_key=False) == []
    assert heads.hold(4, 300, has_key=False) == [3]  # the oldest of the largest without a key
    assert heads.hold(2, 200, has_key=False) == []
    assert heads.hold(5, 800, has_key=True) == [4, 2, 5]  # then the largest with a key
    heads.end(1)
    heads.end(1)
    assert heads.total_bytes == 0
