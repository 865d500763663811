"""Which connections close when too many are open."""

from gatepass.server.connection_shares import AT_ONCE, ConnectionShares
from tests.memory import traced_memory


def test_the_connection_without_a_caller_that_is_idle_longest_closes_first():
    shares: ConnectionShares[int] = ConnectionShares(2, 1, callers=1)
    assert [shares.connect(number) for number in range(4)] == [[]] * 4
    shares.begin(0)
    assert [shares.connect(new) for new in (4, 5)] == [[1], [2]]
    shares.end(3)
    assert [shares.connect(new) for new in (6, 7)] == [[0], [4]]


def test_one_that_closed_is_not_counted_again():
    shares: ConnectionShares[int] = ConnectionShares(0, 1, callers=0)
    shares.connect(0)
    assert shares.connect(1) == [0]
    shares.begin(0)
    shares.end(0)
    assert (shares.authenticate(0), len(shares), shares.connect(2)) == ([], 1, [1])


def callers_of(count: int, connections: int) -> ConnectionShares[int]:
    """Shares with `count` connections of callers, which serve a request each."""
    shares: ConnectionShares[int] = ConnectionShares(connections, 100, callers=0)
    for number in range(count):
        shares.connect(number)
        shares.begin(number)
        shares.authenticate(number)
    return shares


def test_above_their_share_the_callers_connection_that_is_idle_longest_closes():
    shares = callers_of(3, 3)
    for number in (2, 0, 1):
        shares.end(number)
    for number, closing in ((3, [2]), (4, [0]), (5, [1]), (6, [])):
        assert shares.connect(number) == []
        shares.begin(number)
        assert shares.authenticate(number) == closing
    assert shares.authenticate(6) == []
    assert len(shares) == 4


def test_a_flood_without_keys_closes_no_connection_of_a_caller_and_a_reload_closes_in_parts():
    shares = callers_of(5, 5)
    for number in range(5):
        shares.end(number)
    closed = [one for new in range(5, 505) for one in shares.connect(new)]
    assert closed == [*range(5, 405)]
    assert shares.make_room(1) == [405]
    large: ConnectionShares[int] = ConnectionShares(4000, 1000, 1)
    for number in range(5001):
        large.connect(number)
    large.set_callers(1000, 1)
    assert len(large.connect(5001)) == AT_ONCE


def test_connections_that_have_left_take_no_memory():
    shares: ConnectionShares[str] = ConnectionShares(10, 4, callers=1)
    with traced_memory() as memory:
        for number in range(2_000):
            name = f"client-{number}"
            shares.connect(name)
            shares.begin(name)
            if number % 2:
                assert shares.authenticate(name) == []
            shares.end(name)
            shares.disconnect(name)
    assert len(shares) == 0
    assert memory.kept_bytes < 10_000
