from __future__ import annotations

import pytest

from gatepass.sse.usage import Usage, nonempty_usage, usage_of


def test_a_usage_without_a_count_says_nothing():
    assert nonempty_usage(Usage()) is None
    assert nonempty_usage(None) is None
    assert nonempty_usage(Usage(0)) == Usage(0)


def test_counts_are_whole_numbers_or_missing():
    assert Usage.read({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "more": {}}) == Usage(11, 7, 18)
    assert Usage.read({"prompt_tokens": None, "completion_tokens": "7", "total_tokens": -1}) == Usage()
    assert Usage.read({"prompt_tokens": True, "total_tokens": 1.5}) == Usage()


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}', Usage(1, 2, 3)),
        (
            b'{"data":[1], "usage" : {"prompt_tokens": 5, "details": {"cached": 1}, "total_tokens": 5} }',
            Usage(5, None, 5),
        ),
        (b'{"choices":[{"message":{"content":"\\"usage\\":{\\"total_tokens\\":9}"}}]}', None),
        (b'{"usage":{"prompt_tokens":-1,"completion_tokens":"2","total_tokens":3}}', Usage(None, None, 3)),
        (b'{"usage":{"prompt_tokens":true,"completion_tokens":1.5,"total_tokens":3}}', Usage(None, None, 3)),
        (b'{"usage":null}', None),
        (b'{"usage":{"total_tokens":1,}}', None),
        (b'{"usage":{"total_tokens":1.5,"note":"\xff"}}', None),
        (b'{"usage":{"total_tokens":1}' + b" " * 5_000 + b"}", None),
        (b"", None),
    ],
)
def test_the_usage_of_a_plain_reply_is_read_at_its_end(body, usage):
    assert usage_of(body) == usage
