"""JSON with raw parts."""

import msgspec
import pytest

from gatepass.adapt.encoding import encoded


def test_raw_parts_stay_as_they_came():
    raw = msgspec.Raw('{"score": 1e999, "text": "é"}'.encode())
    assert encoded({"results": [raw]}) == b'{"results":[%b]}' % raw


def test_raw_parts_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="utf-8"):
        encoded({"x": msgspec.Raw(b'"\xff"')})
