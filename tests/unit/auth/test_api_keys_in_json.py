"""A key inside a JSON object."""

import pytest

from gatepass.auth.api_keys import MAX_WRAPPED_CHARS, unwrapped_key


@pytest.mark.parametrize(
    ("presented", "key"),
    [
        ('{"api_key":"gp-1","is_tools":true}', "gp-1"),
        ('{"is_tools": false, "api_key": " gp-1 "}', "gp-1"),
        ("gp-1", None),
        ("", None),
        ("{", None),
        ("{}", None),
        ('{"api_key":""}', None),
        ('{"api_key":" "}', None),
        ('{"api_key":1}', None),
        ('{"key":"gp-1"}', None),
        ('["gp-1"]', None),
        ('{"api_key":"gp-1"}'.ljust(MAX_WRAPPED_CHARS), "gp-1"),
        ('{"api_key":"gp-1"}'.ljust(MAX_WRAPPED_CHARS + 1), None),
        ('{"a":' * 700, None),
    ],
)
def test_key_is_unwrapped_from_its_object_only(presented, key):
    assert unwrapped_key(presented) == key
