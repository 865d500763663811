"""Streams as llama.cpp and the official APIs send them, relayed in two pieces: cut at every byte."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gatepass.sse.event_stream import EventStream
from tests.e2e.hosts.turns import Turn
from tests.e2e.hosts.upstream import Messages, Responses
from tests.unit.protocols.test_messages import new_stream as of_messages
from tests.unit.protocols.test_responses_stream import begun as of_responses
from tests.unit.sse.streams import with_line_ends

RECORDED = Path(__file__).parent / "streams"
"""What llama.cpp's server sent, byte for byte."""
TURN = Turn('Größe: "1\\2" 🚀', (("call_1", "look", '{"city": "Zürich"}'),))


STREAMS: dict[str, tuple[Callable[[], EventStream], bytes]] = {
    "messages of llama.cpp": (of_messages, (RECORDED / "llama_messages.txt").read_bytes()),
    "messages with a call": (of_messages, b"".join(Messages.events({"model": "m"}, TURN))),
    "responses of llama.cpp": (of_responses, (RECORDED / "llama_responses.txt").read_bytes()),
    "responses with a call": (of_responses, b"".join(Responses.events({"model": "m"}, TURN))),
}
each_stream = pytest.mark.parametrize(("begun", "sent"), STREAMS.values(), ids=STREAMS)


def relayed(stream: EventStream, *parts: bytes) -> bytes:
    return b"".join([*map(stream.feed, parts), stream.finish()])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@each_stream
def test_two_pieces_pass_unchanged_and_are_complete(begun, sent, end):
    whole = with_line_ends(sent, end)
    events = sent.count(b"\ndata: ")
    for at in range(len(whole) + 1):
        if end != b"\n" and b"\r" not in whole[max(at - 2, 0) : at + 2]:
            continue  # between other bytes the line ends make no difference
        stream = begun()
        assert relayed(stream, whole[:at], whole[at:]) == whole
        assert (stream.done, stream.failure, stream.events, stream.adapted) == (True, None, events, ()), at


@each_stream
def test_a_stream_that_ends_at_any_byte_is_never_complete(begun, sent):
    for at in range(len(sent.rstrip())):
        stream = begun()
        assert sent.startswith(relayed(stream, sent[:at]))
        assert stream.failure is not None
        assert not stream.done, at
