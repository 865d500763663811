"""Which connections close when one address holds too many."""

from __future__ import annotations

import pytest

from gatepass.server.connection_shares import ADDRESSES, IDLE_S, ConnectionShares
from tests.memory import traced_memory

UNAUTHENTICATED = 20
OF_ONE_ADDRESS = UNAUTHENTICATED // ADDRESSES
CLIENT = "192.0.2.7"


@pytest.mark.parametrize("is_behind_proxy", [False, True])
def test_one_address_has_its_share_directly_and_through_a_proxy(is_behind_proxy):
    shares: ConnectionShares[int] = ConnectionShares(100, UNAUTHENTICATED, 1)
    closed = []
    for connection in range(2 * OF_ONE_ADDRESS):
        now_s = connection * 2 * IDLE_S
        closed += shares.connect(connection, None if is_behind_proxy else CLIENT, now_s)
        shares.begin_unauthenticated(connection, now_s)
        closed += shares.end_unauthenticated(connection, CLIENT, now_s)
    assert closed == list(range(OF_ONE_ADDRESS))
    assert len(shares) == OF_ONE_ADDRESS


def test_addresses_that_have_left_take_no_memory():
    shares: ConnectionShares[str] = ConnectionShares(10, 4, callers=1)
    with traced_memory() as memory:
        for number in range(5_000):
            shares.connect("client", f"192.0.2.{number}", 0.0)
            shares.disconnect("client")
    assert memory.kept_bytes < 10_000
