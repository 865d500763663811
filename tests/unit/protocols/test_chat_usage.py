"""The usage that a request asks for."""

import pytest

from gatepass.json_body import TopLevel
from gatepass.protocols.chat import requested_usage


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', False),
        (b'{"stream_options":null}', False),
        (b'{"stream_options":{"include_usage":false}}', False),
        (b'{"stream_options":{"include_usage":true}}', True),
        (b'{"messages":[{"content":"\\"stream_options\\""}]}', False),
        (b'{"stream_options":{"include_usage":true,"continuous_usage_stats":true}}', None),
        (b'{"stream_options":{"include_usage":"yes"}}', None),
        (b'{"stream_options":7}', None),
    ],
)
def test_requested_usage_is_read_or_left_to_the_upstream(body, expected):
    assert requested_usage(TopLevel(body)) is expected
