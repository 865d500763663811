import json

import pytest

from gatepass.sse.usage import Usage, complete_usage, usage_of

DETAILS = '{"prompt_tokens":9,"completion_tokens":8,"total_tokens":17,%s}'


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        (
            DETAILS % '"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}',
            Usage(9, 8, 17, 4, 5),
        ),
        (DETAILS % '"prompt_tokens_details":null,"completion_tokens_details":{"audio_tokens":1}', Usage(9, 8, 17)),
        (DETAILS % '"prompt_tokens_details":{"cached_tokens":"4"},"completion_tokens_details":[5]', Usage(9, 8, 17, 4)),
        (DETAILS % '"prompt_tokens_details":{"cached_tokens":-4}', Usage(9, 8, 17)),
        (DETAILS % '"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":5', Usage(9, 8, 17, 4)),  # DeepSeek
        (DETAILS % '"cached_tokens":4', Usage(9, 8, 17, 4)),  # Moonshot
        (DETAILS % '"prompt_tokens_details":{"cached_tokens":0},"cached_tokens":4', Usage(9, 8, 17, 0)),
        ('{"completion_tokens":3,"input_tokens_details":{"cached_tokens":1}}', Usage(None, 3)),
        (
            (
                '{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":8,'
                '"output_tokens_details":{"reasoning_tokens":5},"total_tokens":17}'
            ),
            Usage(9, 8, 17, 4, 5),
        ),
    ],
)
def test_cached_and_reasoning_tokens_are_read_from_the_details(document, usage):
    assert Usage.read(json.loads(document)) == usage
    assert usage_of(b'{"usage":%b}' % document.encode()) == usage


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}', Usage(1, 2, 3)),
        (
            b'{"data":[1], "usage" : {"prompt_tokens": 5, "details": {"cached": 1}, "total_tokens": 5} }',
            Usage(5, None, 5),
        ),
        (b'{"choices":[{"message":{"content":"\\"usage\\":{\\"total_tokens\\":9}"}}]}', None),
        (b'{"usage":{"prompt_tokens":-1,"completion_tokens":"2","total_tokens":3}}', Usage(None, 2, 3)),
        (b'{"usage":{"prompt_tokens":true,"completion_tokens":1.5,"total_tokens":3}}', Usage(None, None, 3)),
        (b'{"usage":null}', None),
        (b'{"usage":{"total_tokens":1,}}', None),
        (b'{"usage":{"total_tokens":1.5,"note":"\xff"}}', None),
        (b'{"usage":{"total_tokens":1},"metadata":{"a":"%b"}}' % (b"x" * 5_000), Usage(None, None, 1)),
        (b'{"usage":{"total_tokens":2},"tools":[{"usage":{"total_tokens":1}}]}', Usage(None, None, 2)),
        (b'{"tools":[{"usage":{"total_tokens":1}}]}', None),
        (b'{"usage":[%b1]}' % (b"1," * 40_000), None),
        (b'{"usage":3}', None),
        (b'[{"usage":{"total_tokens":1}}]', None),
        (b"", None),
    ],
)
def test_the_usage_of_a_whole_reply_is_read_at_its_top_level(body, usage):
    assert usage_of(body) == usage


@pytest.mark.parametrize(
    ("written", "count"),
    [(3, 3), (3.0, 3), ("3", 3), ("3.0", 3), (3.5, 0), ("3.5", 0), (-1.0, 0), (1e300, 0), ("", 0), (True, 0), ([], 0)],
)
def test_a_count_is_read_however_it_is_written(written, count):
    assert complete_usage({"prompt_tokens": written}, is_chat=False) == {"prompt_tokens": count, "total_tokens": count}
