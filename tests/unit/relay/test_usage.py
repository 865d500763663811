from __future__ import annotations

from gatepass.relay.usage import Usage


def test_counts_are_whole_numbers_or_missing():
    assert Usage.read({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "more": {}}) == Usage(11, 7, 18)
    assert Usage.read({"prompt_tokens": None, "completion_tokens": "7", "total_tokens": -1}) == Usage()
    assert Usage.read({"prompt_tokens": True, "total_tokens": 1.5}) == Usage()
