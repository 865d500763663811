"""The usage of a stream, whole for the clients that want it so."""

import json

import pytest

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.sse.client_transforms import WholeUsage, make_client_transform

TEXT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a \\"usage\\" b"}}],"usage":null}\n\n'


def with_usage(usage, choices=b"[]"):
    return b'data: {"id":"1","choices":%b,"usage":%b}\n\n' % (choices, usage)


@pytest.mark.parametrize(
    ("profile", "behind", "adapted"),
    [("ragflow", b": alive\n", ("repair=usage",)), ("dify", b"", ("sse=comments", "repair=usage"))],
)
def test_a_lost_total_of_a_stream_is_the_sum_of_the_rest(profile, behind, adapted):
    transform = make_client_transform(BUILT_IN_PROFILES[profile])
    assert transform is not None
    lost = with_usage(b'{"prompt_tokens":12,"completion_tokens":3.0,"total_tokens":null}')
    run = transform.feed(TEXT + lost + b"data: [DONE]\n\n: alive\n") + transform.finish()
    assert run.startswith(TEXT)
    assert run.endswith(b"data: [DONE]\n\n" + behind)
    payload = json.loads(run[len(TEXT) :].split(b"\n")[0].removeprefix(b"data: "))
    assert payload == {
        "id": "1",
        "choices": [],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
    }
    assert type(payload["usage"]["completion_tokens"]) is int
    assert transform.adapted == adapted


@pytest.mark.parametrize(
    "run",
    [
        TEXT,
        with_usage(b'{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}'),
        b'data: {"error":{"message":"x"},"usage":{}}\n\n',
        b'data: [{"usage":{}}]\n\n',
        b'data: {"usage":{\n\n',
        b"data: [DONE]\n\n",
    ],
)
def test_whole_or_missing_usage_is_the_same_object(run):
    transform = WholeUsage()
    assert transform.feed(run) is run
    assert (transform.finish(), transform.adapted) == (b"", ())
