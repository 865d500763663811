"""Long chunks cut into short ones."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse.chunk import encode_event
from gatepass.sse.client_transforms import BYTES_PER_CHAR, OVERHEAD_BYTES, ShortLines

LIMIT = OVERHEAD_BYTES + 10 * BYTES_PER_CHAR
"""Ten characters a piece."""
PAD = "x" * LIMIT
HEAD = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chunk(delta, finish=None, **more):
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def payloads_of(block: bytes) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix(b"data: ")) for part in block.split(b"\n\n") if part.startswith(b"data: ")]


def text_of(chunks, name="content") -> str:
    return "".join(choice["delta"].get(name) or "" for one in chunks for choice in one["choices"])


def test_a_short_run_is_the_same_object():
    block = encode_event(chunk({"content": "a" * 100})) * 3
    transform = ShortLines(LIMIT)
    assert transform.feed(block) is block
    assert transform.adapted == ()
    assert transform.finish() == b""


def test_many_short_events_of_a_long_run_are_the_same_object():
    block = encode_event(chunk({"content": "a" * 100})) * 100
    transform = ShortLines(LIMIT)
    assert len(block) > LIMIT
    assert transform.feed(block) is block


def test_a_long_text_comes_in_pieces_and_ends_as_it_did():
    usage = {"total_tokens": 3}
    transform = ShortLines(LIMIT)
    block = encode_event(chunk({"role": "assistant", "content": PAD}, "stop", usage=usage, extra={"a": 1}))
    parts = payloads_of(transform.feed(block))
    assert text_of(parts) == PAD
    assert parts[0]["extra"] == {"a": 1}
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [part.get("usage") for part in parts] == [None] * (len(parts) - 1) + [usage]
    reasons = [choice["finish_reason"] for part in parts for choice in part["choices"]]
    assert reasons == [None] * (len(parts) - 1) + ["stop"]
    assert all({name: part[name] for name in HEAD} == HEAD for part in parts)
    assert transform.adapted == (ShortLines.name,)


def test_a_text_without_an_end_has_no_chunk_more():
    parts = payloads_of(ShortLines(LIMIT).feed(encode_event(chunk({"content": PAD}))))
    assert all(part["choices"][0]["delta"]["content"] for part in parts)


def test_arguments_of_tools_come_in_pieces_by_their_index():
    calls = [
        {"index": number, "id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": PAD}}
        for number in range(2)
    ]
    parts = payloads_of(ShortLines(LIMIT).feed(encode_event(chunk({"tool_calls": calls}))))
    found = {0: "", 1: ""}
    for part in parts:
        for call in part["choices"][0]["delta"]["tool_calls"]:
            found[call["index"]] += call["function"]["arguments"]
    assert found == {0: PAD, 1: PAD}
    assert [call["id"] for part in parts for call in part["choices"][0]["delta"]["tool_calls"] if "id" in call] == [
        "c0",
        "c1",
    ]


def test_short_events_around_a_long_one_stay_by_the_byte():
    small = encode_event(chunk({"content": "é"}))
    transformed = ShortLines(LIMIT).feed(small + encode_event(chunk({"content": PAD})) + small + b": keep-alive\n")
    assert transformed.startswith(small)
    assert transformed.endswith(small + b": keep-alive\n")
    assert text_of(payloads_of(transformed)) == f"é{PAD}é"


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(chunk({"audio": {"data": PAD}})),
        json.dumps({**HEAD, "choices": [], "x": PAD}),
        json.dumps({**HEAD, "choices": [{"index": 0, "text": PAD}]}),
        json.dumps({**HEAD, "choices": [PAD]}),
        json.dumps(chunk({"tool_calls": [1, {"function": None}, {"function": {"arguments": {"a": PAD}}}]})),
        json.dumps(chunk({"tool_calls": PAD})),
        json.dumps([PAD]),
        "no json " + PAD,
    ],
)
def test_event_without_a_text_to_split_passes_unchanged(data):
    block = f"data: {data}\n\n".encode()
    transform = ShortLines(LIMIT)
    assert transform.feed(block) is block
    assert transform.adapted == ()


@given(st.text(max_size=400), st.text(max_size=400), st.integers(OVERHEAD_BYTES, OVERHEAD_BYTES + 300))
def test_every_text_arrives_whole_and_every_line_is_short(content, reasoning, limit):
    block = encode_event(chunk({"content": content * 30, "reasoning_content": reasoning * 30}, "stop"))
    transformed = ShortLines(limit).feed(block)
    parts = payloads_of(transformed)
    assert text_of(parts) == content * 30
    assert text_of(parts, "reasoning_content") == reasoning * 30
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(len(line) <= limit for line in transformed.splitlines())
