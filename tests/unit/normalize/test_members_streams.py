"""Changes of whether the upstream streams."""

import json

import pytest

from gatepass.normalize.members import drop_orphaned_options, include_usage, request_stream, request_whole_reply
from gatepass.normalize.rules import apply_changes
from tests.rows import RESPONSES
from tests.unit.normalize.calls import a_call


@pytest.mark.parametrize("body", [b'{"n":1}', b'{"n":1,"stream":false}', b'{"n":1,"stream":null}'])
def test_streamed_requests_a_stream_with_usage(body):
    changed, _ = apply_changes(a_call(body), [request_stream])
    assert json.loads(changed.body) == {"n": 1, "stream": True, "stream_options": {"include_usage": True}}
    assert (changed.stream, changed.adapted) == (True, ("stream=aggregate",))


@pytest.mark.parametrize("options", [b"null", b"[]", b"false", b"{}", b'{"include_usage":false}'])
def test_usage_is_requested_whatever_the_client_says_of_it(options):
    call = a_call(b'{"stream":true,"stream_options":%b}' % options, stream=True)
    changed, _ = apply_changes(call, [include_usage])
    assert json.loads(changed.body) == {"stream": True, "stream_options": {"include_usage": True}}


def test_responses_stream_and_have_their_usage_anyway():
    whole, _ = apply_changes(
        a_call(b'{"stream":true,"stream_options":{},"n":1}', RESPONSES, stream=True), [request_whole_reply]
    )
    stream, _ = apply_changes(a_call(b'{"n":1}', RESPONSES), [request_stream])
    assert (whole.body, whole.stream, whole.adapted) == (b'{"stream":false,"n":1}', False, ("stream=synth",))
    assert (json.loads(stream.body), stream.stream) == ({"n": 1, "stream": True}, True)


def test_request_with_the_right_stream_mode_is_unchanged():
    whole, stream = a_call(b'{"stream":false}'), a_call(b'{"stream":true,"stream_options":{}}', stream=True)
    assert apply_changes(whole, [request_whole_reply])[0] is whole
    assert apply_changes(stream, [request_stream, drop_orphaned_options])[0] is stream
