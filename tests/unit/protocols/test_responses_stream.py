"""A relayed stream of the Responses API: its events pass unchanged, however they are cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gatepass.protocols.responses import ResponseProgress
from gatepass.sse.event_stream import EventStream
from gatepass.sse.fast_path import NumberedPath
from gatepass.sse.usage import Usage
from tests.unit.sse.streams import new_stream, pieces, with_line_ends

WORDS = ("Hel", "lo", 'a "quoted" word', "", "größer 🚀", "line\nline", "\\", "data: [DONE]", *"abcdefghijkl")
AT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
CREATED = {"type": "response.created", "response": {"id": "resp_1", "model": "m", "created_at": 7}}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_1", "usage": {"total_tokens": 3}}}


def event(payload: dict[str, Any]) -> bytes:
    return f"event: {payload['type']}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


def as_openai(number: int, payload: dict[str, Any]) -> dict[str, Any]:
    kind = payload["type"]
    padded = {"logprobs": [], "obfuscation": "x" * (number % 5)} if kind.endswith(".delta") else {}
    return {"type": kind, "sequence_number": number, **payload, **padded}


def as_vllm(number: int, payload: dict[str, Any]) -> dict[str, Any]:
    return {**payload, "sequence_number": number}


def as_llama(number: int, payload: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(payload.items()))


def between(number: int, payload: dict[str, Any]) -> dict[str, Any]:
    """The number is between two texts, where the fast path does not look for it."""
    return {**payload, "sequence_number": number, "obfuscation": "x"}


FORMS = (as_openai, as_vllm, as_llama, between)


def events_of(form: Any) -> list[bytes]:
    deltas = [{"type": "response.output_text.delta", **AT, "delta": word} for word in WORDS]
    arguments = [{"type": "response.function_call_arguments.delta", **AT, "delta": word} for word in WORDS]
    return [event(form(number, one)) for number, one in enumerate([CREATED, *deltas, *arguments, COMPLETED])]


def begun() -> EventStream:
    return new_stream(done_is_required=False, progress=ResponseProgress())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("form", FORMS)
def test_each_split_leaves_the_bytes_and_the_state(form, end):
    whole = with_line_ends(b"".join(events_of(form)), end)
    for size_bytes in (1, 2, 3, 7, 100, 1000, len(whole)):
        stream = begun()
        assert b"".join([*map(stream.feed, pieces(whole, size_bytes)), stream.finish()]) == whole
        assert (stream.done, stream.failure, stream.events) == (True, None, 2 * len(WORDS) + 2)
        assert (stream.adapted, stream.usage) == ((), Usage(total_tokens=3))


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_is_cut_at_any_byte_is_never_complete(form):
    events = events_of(form)
    whole = b"".join([*events[:8], events[-1]])
    last = len(whole) - len(b"\n\n")  # a last event without its blank line is complete
    for at in range(last):
        stream = begun()
        relayed = stream.feed(whole[:at]) + stream.finish()
        assert whole.startswith(relayed)
        assert not stream.done
        assert stream.failure is not None


@pytest.mark.parametrize("form", [as_openai, as_vllm])
def test_the_next_number_follows_each_event(form):
    stream = begun()
    for number, one in enumerate(events_of(form)):
        stream.feed(one)
        assert (stream.streamed.next_number, stream.streamed.is_numbered) == (number + 1, True)


@pytest.mark.parametrize("form", [as_openai, as_vllm, as_llama])
def test_most_events_pass_without_parsing(form):
    path, deltas = NumberedPath(), events_of(form)[9:21]
    path.set_pattern(deltas[0], 1)
    assert [path.count_matching(one) for one in deltas[1:]] == [1] * 11


@pytest.mark.parametrize(
    "other",
    [
        event(as_vllm(12, {"type": "response.output_text.delta", **AT, "delta": "b"})),
        event(as_vllm(11, {"type": "response.output_text.delta", **AT, "delta": "b", "error": {}})),
        event(as_vllm(11, {"type": "response.output_text.delta", **AT, "delta": "a b"})).replace(b" b", b'"b'),
        event(as_vllm(11, {"type": "response.output_text.delta", **AT, "delta": "b"})) * 2,
        event(as_vllm(11, {"type": "response.output_text.delta", **AT, "delta": "b"}))[:-1],
        b"",
    ],
)
def test_an_event_with_anything_else_is_parsed(other):
    path = NumberedPath()
    path.set_pattern(event(as_vllm(10, {"type": "response.output_text.delta", **AT, "delta": "a"})), 1)
    assert path.count_matching(other) == 0
    assert path.count_matching(event(as_vllm(11, {"type": "response.output_text.delta", **AT, "delta": "b"}))) == 1


def test_the_path_continues_after_an_event_that_was_parsed():
    path, (first, second, third) = (
        NumberedPath(),
        (
            event(as_vllm(number, {"type": "response.output_text.delta", **AT, "delta": word}))
            for number, word in enumerate(("a", "a [b]", "c"), 9)
        ),
    )
    second = second.replace(b"[b]", rb"\ud83d")  # half of a character, which msgspec rejects
    path.set_pattern(first, 1)
    assert path.count_matching(second) == 0
    path.set_pattern(second, 2)
    assert path.count_matching(third) == 1
