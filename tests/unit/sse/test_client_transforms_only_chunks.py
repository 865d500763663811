"""Streams of chunks only, for clients that read the choices of every event."""

import pytest

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.sse.client_transforms import OnlyChunks, make_client_transform
from tests.unit.sse.streams import DONE, REALISTIC, chunk, data, new_stream, text, with_line_ends

CLEAN = b"".join(REALISTIC)
FOREIGN = data({"foo": "bar"})


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("foreign", [FOREIGN, data([1]), data(7), data(None), b"event: x\n" + data({"a": "choices:"})])
def test_events_without_choices_are_left_out(foreign, end):
    sent, transform = with_line_ends(foreign + b"".join(one + foreign for one in REALISTIC), end), OnlyChunks()
    assert transform.feed(sent) == with_line_ends(CLEAN, end)
    assert (transform.adapted, transform.finish()) == ((OnlyChunks.name,), b"")


@pytest.mark.parametrize(
    "run",
    [
        CLEAN,
        text("a"),
        data(chunk(None)),
        DONE,
        b": alive\n\n",
        text("a") + b": alive\n",
        data({"error": {"message": "m"}}),
        data({"object": "error", "message": "m"}),
        b'data: {"\\u0063hoices":[]}\n\n',
    ],
)
def test_chunks_errors_and_what_is_no_json_are_the_same_object(run):
    transform = OnlyChunks()
    assert transform.feed(run) is run
    assert transform.adapted == ()


@pytest.mark.parametrize("name", ["dify", "cline"])
def test_clients_find_choices_in_every_event(name):
    sent = REALISTIC[0] + FOREIGN + b"".join(REALISTIC[1:])
    stream, plain = (
        new_stream(client_transform=make_client_transform(BUILT_IN_PROFILES[name])),
        new_stream(client_transform=make_client_transform(BUILT_IN_PROFILES[name])),
    )
    assert stream.feed(sent) + stream.finish() == plain.feed(CLEAN) + plain.finish()
    assert (stream.done, OnlyChunks.name in stream.adapted, OnlyChunks.name in plain.adapted) == (True, True, False)


def test_other_clients_get_what_they_may_know():
    assert [name for name, profile in BUILT_IN_PROFILES.items() if profile.only_chunks] == ["dify", "cline"]
