"""Built-in Rules that need no lesson."""

import pytest

from gatepass.adapt.changes.always import StreamOptions, Vectors
from tests.unit.adapt.calls import CHAT, EMBEDDINGS, MODELS, TARGET, a_call


def test_stream_options_without_a_stream_go():
    adapted = StreamOptions().apply(a_call(b'{"model":"m","stream_options":{"include_usage":true}}'), TARGET)
    assert (adapted.body, adapted.adapted) == (b'{"model":"m"}', ("drop=stream_options",))


def test_vectors_are_asked_for_as_numbers():
    adapted = Vectors().apply(a_call(b'{"input":"a","encoding_format":"base64"}', EMBEDDINGS), TARGET)
    assert (adapted.body, adapted.adapted) == (
        b'{"input":"a","encoding_format":"float"}',
        ("set=encoding_format>float",),
    )


@pytest.mark.parametrize(
    "call",
    [
        a_call(b'{"stream":true,"stream_options":{}}', stream=True),
        a_call(b'{"messages":["stream_options"]}'),
        a_call(b'{"x":{"stream_options":{}}}'),
        a_call(b'{"encoding_format":"base64"}', CHAT),
        a_call(b'{"encoding_format":"float"}', EMBEDDINGS),
        a_call(b'{"input":"base64"}', EMBEDDINGS),
        a_call(b'{"stream_options":{}}', EMBEDDINGS),
        a_call(b"", MODELS),
    ],
)
def test_everything_else_is_left_alone(call):
    for rule in (StreamOptions(), Vectors()):
        assert rule.apply(call, TARGET) is call
