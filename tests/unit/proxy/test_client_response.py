"""The value of the `server-timing` field."""

import pytest

from gatepass.proxy.client_response import server_timing


@pytest.mark.parametrize("head_s", [0.0, 0.00045, 0.00125, 1.2345, 600.0])
@pytest.mark.parametrize("token_wait_s", [0.0, 1e-9, 0.00125, 2.5])
def test_times_are_in_tenths_of_milliseconds(head_s, token_wait_s):
    expected = f"total;dur={head_s * 1000:.1f}, token;dur={token_wait_s * 1000:.1f}"
    assert server_timing(head_s, token_wait_s) == expected.encode()
