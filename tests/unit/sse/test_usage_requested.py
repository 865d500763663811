"""What a request says of the usage that it wants to be told."""

import pytest

from gatepass.sse.usage import requested_usage


@pytest.mark.parametrize(
    ("body", "wish"),
    [
        (b'{"model":"m"}', False),
        (b'{"stream_options":null}', False),
        (b'{"stream_options":{}}', False),
        (b'{"stream_options":{"include_usage":false}}', False),
        (b'{"stream_options":{"include_usage":true}}', True),
        (b'{"messages":[{"content":"\\"stream_options\\""}]}', False),
        (b'{"stream_options":{"include_usage":true,"continuous_usage_stats":true}}', None),
        (b'{"stream_options":{"include_usage":"yes"}}', None),
        (b'{"stream_options":7}', None),
    ],
)
def test_a_wish_is_read_or_left_to_the_upstream(body, wish):
    assert requested_usage(body) is wish
