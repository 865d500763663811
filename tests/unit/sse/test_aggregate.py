"""One reply from the events of a stream, which are validated and repaired as those of a relayed one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import GatepassError
from gatepass.sse import aggregate
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.chunk import MAX_ENTRIES, StreamSource
from gatepass.sse.dialect_transforms import RagflowStream
from gatepass.sse.event import LARGE_EVENT_BYTES
from gatepass.sse.repair import synthesize_stream
from gatepass.sse.synthesize import PIECE_CHARS
from gatepass.sse.usage import Usage
from tests.memory import traced_memory
from tests.unit.sse.documents import (
    CREATED_S,
    clean_streams,
    completions,
    events,
    fed,
    legacy_completions,
    meaning,
    origin,
)
from tests.unit.sse.peer import helper_reads, strictly
from tests.unit.sse.repair_streams import USAGE
from tests.unit.sse.replies import refuse_to_write
from tests.unit.sse.streams import DONE, LIMIT_BYTES, REALISTIC, chunk, data, read_error, text

HEAD = {"id": "chatcmpl-7", "created": 1_700_000_000, "model": "gpt-4o-240806-deploy-gs"}
STOP = data(chunk({}, finish="stop"))


def aggregator(limit_bytes: int = LIMIT_BYTES, event_bytes: int = LIMIT_BYTES, **more: Any) -> CompletionAggregator:
    return CompletionAggregator(StreamSource("chat", limit_bytes, read_error), event_bytes, origin(), **more)


def aggregated(*blocks: bytes, **more: Any) -> dict[str, Any]:
    one = aggregator(**more)
    fed(one.feed, list(blocks))
    payload: dict[str, Any] = json.loads(one.finish())
    return payload


def failure(*blocks: bytes, **more: Any) -> tuple[str, str]:
    """The code and the message of the error that `finish` raises."""
    one = aggregator(**more)
    for block in blocks:
        one.feed(block)
        while one.is_heavy:
            one.feed()
    with pytest.raises(GatepassError) as caught:
        one.finish()
    assert caught.value is one.failure or "too large to make" in str(caught.value)
    assert caught.value.hop == "upstream:chat"
    return caught.value.public_code, caught.value.message


def message(content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "refusal": None, **more}


def choice(content: Any = None, finish: str = "stop", index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "message": message(content), "logprobs": None, "finish_reason": finish, **more}


def reply(*choices: Any, **more: Any) -> dict[str, Any]:
    return {**HEAD, "object": "chat.completion", "choices": [*choices], **more}


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_the_usage_after_a_call_that_ends_its_chunk_is_the_last_one(finish):
    counts = [{"prompt_tokens": 1, "completion_tokens": made, "total_tokens": made + 1} for made in (1, 2, 3)]
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    events = [A, chunk({"tool_calls": [call]}, finish), chunk(None)]
    one = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, read_error), LIMIT_BYTES, origin())
    for event, usage in zip(events, counts, strict=True):
        one.feed(data(event | {"usage": usage}))
    one.feed(DONE)
    assert (json.loads(one.finish())["usage"], one.usage) == (counts[-1], Usage.read(counts[-1]))


# --- bytes ----------------------------------------------------------------------------------------

SAID = 'He said "hi" and wrote\n\ndata: [DONE]\n\nand \'"finish_reason":"stop"\' größer 東京 🚀 plain as well'
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Bern"}'}}
WHOLE = reply(
    choice(finish="tool_calls", message=message(SAID, tool_calls=[CALL])), choice("the other\\", index=1), usage=USAGE
)


GROWN = ("The answer", "The answer is", "The answer is forty")


@pytest.mark.parametrize("end", [DONE, b""])
def test_chunks_that_a_transform_and_the_repair_hold_are_part_of_the_reply(end):
    payload = aggregated(*map(text, GROWN), STOP + end, cumulative=True, transform=RagflowStream(origin()))
    assert payload["choices"][0]["message"]["content"] == GROWN[-1]


# --- what becomes of each member ------------------------------------------------------------------


def with_choice(**members: Any) -> dict[str, Any]:
    return chunk(None) | {"choices": [{"index": 0, **members}]}


def logged(text_of: str, finish: str | None = None, **logprobs: Any) -> dict[str, Any]:
    return with_choice(delta={"content": text_of}, finish_reason=finish, logprobs=logprobs)


A = chunk({"content": "a"})
END = chunk({}, "stop")
HI = {"index": 0, "message": message("Hi"), "finish_reason": "stop"}
FIRST = A | {"id": "", "model": None, "created": 0, "system_fingerprint": None}
SECOND = END | {"system_fingerprint": "fp_1", "service_tier": "default"}
AZURE = chunk(None) | {"id": "", "model": "", "created": 0, "prompt_filter_results": [{"prompt_index": 0}]}
LAST = chunk({}, "stop", citations=["u"], prompt_filter_results=[], obfuscation="xyz", x_null=None)
JOINED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "the first envelope that is not empty": (
        [FIRST, SECOND, SECOND | {"id": "other", "model": "other", "created": 1, "system_fingerprint": "fp_2"}],
        reply(choice("a"), system_fingerprint="fp_1", service_tier="default"),
    ),
    "an envelope from the origin": (
        [{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}],
        reply(choice("a"), id="chatcmpl-000000000000000000000001", created=CREATED_S, model="asked-for"),
    ),
    "the last usage, never added": (
        [A | {"usage": {"total_tokens": 1}}, A | {"usage": USAGE}, END | {"usage": None}, chunk(None, usage={})],
        reply(choice("aa"), usage=USAGE),
    ),
    "the last value of unknown members, and no padding": (
        [AZURE, A | {"citations": ["t"]}, LAST],
        reply(choice("a"), citations=["u"], prompt_filter_results=[{"prompt_index": 0}]),
    ),
    "choices in ascending order": (
        [chunk({"content": part}, index=index) for part, index in [("b", 1), ("a", 0), ("B", 1), ("A", 0)]]
        + [chunk({}, "length", index=1), END],
        reply(choice("aA"), choice("bB", "length", 1)),
    ),
    "logprobs": (
        [logged("a", content=[{"token": "a"}], refusal=None), logged("b", "stop", content=[{"token": "b"}])],
        reply(choice("ab", logprobs={"content": [{"token": "a"}, {"token": "b"}], "refusal": None})),
    ),
    "extras of a choice, no empty one over another": (
        [
            with_choice(delta={"content": "a"}, content_filter_results={"hate": 1}, stop_reason=None, x_empty={}),
            with_choice(delta={}, finish_reason="stop", content_filter_results={}, stop_reason="eos"),
        ],
        reply(choice("a", content_filter_results={"hate": 1}, stop_reason="eos", x_empty={})),
    ),
}


@pytest.mark.parametrize(("chunks", "expected"), JOINED.values(), ids=JOINED)
def test_chunks_become_one_reply(chunks, expected):
    assert aggregated(*map(data, chunks), DONE) == expected


def test_values_without_choices_say_nothing():
    odd = [{}, {"code": 0, "data": {}}, {"type": "status", "text": "x"}, [], 3, None, "x"]
    odd += [{"choices": None}, {"choices": "x"}, {"choices": [None, 7]}]
    assert aggregated(*map(data, [*odd, A, *odd, END])) == reply(choice("a"))


def tools(*entries: Any) -> dict[str, Any]:
    return {"tool_calls": [*entries]}


def call(identity: str, name: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


F = {"index": 0, **call("a", "f", "1")}
PARTS = [{"type": "text", "text": "b"}]
IMAGES = [{"type": "image_url", "image_url": {}}]
MESSAGES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "texts joined, lists extended, of the rest the last": (
        [
            {"reasoning_content": "H", "reasoning": "h", "x_text": "a", "x_list": [1], "x_value": {"a": 1}},
            {"reasoning_content": "m", "reasoning": "m", "x_text": "b", "x_list": [2], "x_value": {"b": 1}},
            {"refusal": "No", "x_value": {}, "x_list": None},
        ],
        {
            **message(),
            "refusal": "No",
            "reasoning_content": "Hm",
            "reasoning": "hm",
            "x_value": {"b": 1},
            "x_text": "ab",
            "x_list": [1, 2],
        },
    ),
    "a text among images": (
        [{"content": "a"}, {"content": IMAGES}, {"content": "c"}],
        message([{"type": "text", "text": "ac"}, *IMAGES]),
    ),
    "no content": ([{"role": "assistant", "content": None}], message("")),
    "a call instead of content": ([{"content": None}, tools(F)], message(tool_calls=[call("a", "f", "1")])),
    "two calls in turns": (
        [
            tools({**F, "function": {"name": "f", "arguments": ""}}),
            tools({"index": 1, **call("b", "g", "{")}),
            tools({"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": "}"}}),
        ],
        message(tool_calls=[call("a", "f", "{}"), call("b", "g", "{}")]),
    ),
    "a custom tool": (
        [
            tools({"index": 0, "id": "a", "type": "custom", "custom": {"name": "run", "input": ""}}),
            tools({"index": 0, "custom": {"input": "ls"}}),
        ],
        message(tool_calls=[{"id": "a", "type": "custom", "custom": {"name": "run", "input": "ls"}}]),
    ),
    "a function of old": (
        [{"function_call": {"name": name, "arguments": part}} for name, part in [("", ""), ("f", "{"), ("f", "}")]],
        message(function_call={"name": "f", "arguments": "{}"}),
    ),
    "audio that is no object": ([{"audio": 7}], message(audio=7)),
    "audio": (
        [
            {"audio": {"id": "au", "transcript": "He"}},
            {"audio": {"id": "au", "transcript": "y", "data": "YW"}},
            {"audio": {"data": "I=", "expires_at": 7}},
            {"audio": {"expires_at": 9}},
        ],
        message(audio={"id": "au", "expires_at": 9, "data": "YWI=", "transcript": "Hey"}),
    ),
}


@pytest.mark.parametrize(("deltas", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_deltas_become_one_message(deltas, expected):
    [made] = aggregated(*(data(chunk(delta)) for delta in deltas), STOP, DONE)["choices"]
    assert made["message"] == expected
    assert made["finish_reason"] == ("tool_calls" if "tool_calls" in expected else "stop")


# --- how it ends ----------------------------------------------------------------------------------


CUT = ("upstream_closed", "The upstream ended its stream before the answer was complete.")
CUT_CALL = ("upstream_closed", "The upstream ended its answer inside the arguments of a tool call.")
EMPTY = ("upstream_empty", "The upstream's stream ended without an answer.")
FAILED: dict[str, tuple[list[bytes], tuple[str, str]]] = {
    "an open choice": ([text("a"), data(chunk({}, ""))], CUT),
    "half an event": ([text("he") + STOP[:-10]], CUT),
    "half a call": (
        [data(chunk(tools({"id": "a", "function": {"name": "f", "arguments": '{"a":"B'}}))), DONE],
        CUT_CALL,
    ),
    "nothing": ([b""], EMPTY),
    "a role alone": ([data(chunk({"role": "assistant", "content": ""})), DONE], EMPTY),
    "an error event": ([text("a"), data({"error": {"message": "boom", "code": "bad"}}), STOP, DONE], ("bad", "boom")),
    "no JSON": (
        [text("a"), b"data: {\n\n", DONE],
        ("upstream_invalid", "The upstream sent an event that is not JSON."),
    ),
}


@pytest.mark.parametrize(("blocks", "expected"), FAILED.values(), ids=FAILED)
def test_a_stream_without_its_answer_is_an_error(blocks, expected):
    assert failure(*blocks) == expected


# --- limits ---------------------------------------------------------------------------------------


def test_event_above_its_limit_is_an_error_for_every_split():
    large = text("x" * 1000)
    for pieces in ([large], [large[:600], large[600:]], [large[:-2] * 3]):
        assert "limits.event_bytes" in failure(*pieces, event_bytes=500)[1]


def fails(*pieces: bytes) -> str:
    return failure(*pieces, limit_bytes=32 << 20, event_bytes=32 << 20)[1]


@pytest.fixture
def small_most(monkeypatch):
    """A smaller MOST_BYTES: with 12 MiB, a process that has collected all unit tests would hold 520 MiB."""
    monkeypatch.setattr(aggregate, "MOST_BYTES", 2 * LARGE_EVENT_BYTES)


@pytest.mark.usefixtures("small_most")
def test_reply_above_its_limit_fails_for_every_split():
    half = aggregate.MOST_BYTES // 2
    parts = [text("x" * half), text("y" * half), STOP, DONE]
    raw = b"".join(parts)
    small = [text("x" * (half // 6))] * 13  # the last ones are not checked before the end
    for pieces in (parts, [raw], [*parts[:1], b"".join(parts[1:])], [raw[:-1], raw[-1:]], [*small, STOP + DONE]):
        assert "too large to make a whole reply" in fails(*pieces)


def test_a_large_event_is_read_by_the_next_calls():
    one, large = aggregator(32 << 20, 32 << 20), text("x" * LARGE_EVENT_BYTES)
    one.feed(large)
    turns = 0
    while one.is_heavy:
        one.feed()
        turns += 1
    assert turns == 3
    one.feed(large + STOP)  # the body may end within this piece
    assert json.loads(one.finish()) == reply(choice("x" * LARGE_EVENT_BYTES * 2))


def test_a_large_event_without_its_blank_line_is_a_cut_stream():
    assert fails(text("hi") + text("x" * LARGE_EVENT_BYTES)[:-1]) == CUT[1]


def test_answer_above_the_limit_is_an_error_and_nothing_of_it_is_kept():
    whole = b"".join(REALISTIC)
    assert aggregated(whole, limit_bytes=len(whole)) == WHOLE
    one = aggregator(1_000_000)
    with traced_memory() as memory:
        for number in range(40):
            one.feed(text(f"{number:x>50000}"))
    assert memory.kept_bytes < 10_000
    with pytest.raises(GatepassError, match=r"larger than limits\.reply_bytes"):
        one.finish()


def test_too_many_choices_are_an_error():
    many = [{"index": index, "delta": {"content": "a"}} for index in range(MAX_ENTRIES + 1)]
    assert len(aggregated(data(chunk(None) | {"choices": many[1:]}), DONE)["choices"]) == MAX_ENTRIES
    assert failure(data(chunk(None) | {"choices": many, "x": 1}), DONE)[0] == "upstream_invalid"


def test_nested_too_deep_to_be_written_is_an_error(monkeypatch):
    one = aggregator()
    one.feed(text("a") + STOP)
    monkeypatch.setattr("gatepass.sse.chunk.json_text", refuse_to_write)
    with pytest.raises(GatepassError, match="not JSON"):
        one.finish()


# --- /v1/completions ------------------------------------------------------------------------------


def legacy(part: str | None, reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"text": part, "index": index, "logprobs": None, "finish_reason": reason, **more}


def test_legacy_stream_is_joined():
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m"}
    sent = [
        legacy("a", logprobs={"tokens": ["a"], "text_offset": [0]}),
        legacy("b", index=1),
        legacy("c", "length", logprobs={"tokens": ["c"], "text_offset": [1]}, stop_reason="x"),
    ]
    first = legacy("ac", "length", logprobs={"tokens": ["a", "c"], "text_offset": [0, 1]}, stop_reason="x")
    payload = aggregated(*(data({**head, "choices": [one]}) for one in sent), DONE)
    assert payload == {**head, "choices": [first, legacy("b", "stop", 1)]}


# --- any stream -----------------------------------------------------------------------------------


@given(st.data())
def test_every_clean_stream_is_strictly_its_document_in_runs_of_any_size(draw):
    document, chunks = draw.draw(clean_streams())
    one = aggregator(choices=len(document["choices"]))
    fed(one.feed, events(chunks), draw.draw)
    payload = one.finish()
    strictly(payload)
    assert meaning(json.loads(payload)) == meaning(document) == meaning(helper_reads(b"".join(events(chunks))))
    again = list(synthesize_stream(json.loads(payload), True, origin()))
    assert aggregated(*again) == json.loads(payload)


@given(completions(), st.integers(1, 5) | st.just(PIECE_CHARS))
def test_synthesised_and_aggregated_is_the_same_in_meaning(document, piece_chars):
    blocks = list(synthesize_stream(document, True, origin(), piece_chars=piece_chars))
    assert meaning(aggregated(*blocks, choices=len(document["choices"]))) == meaning(document)


@given(legacy_completions(), st.integers(1, 5))
def test_legacy_synthesised_and_aggregated_is_the_same(document, piece_chars):
    blocks = list(synthesize_stream(document, True, origin(), piece_chars=piece_chars))
    assert aggregated(*blocks, choices=len(document["choices"])) == document


@given(completions(), st.integers(0, 30))
def test_stream_cut_before_its_last_finish_reason_is_never_an_answer(document, missing):
    blocks = list(synthesize_stream(document, False, origin()))
    blocks = blocks[: max(0, len(blocks) - 2 - missing)]
    assert failure(*blocks, choices=len(document["choices"])) == (CUT if blocks else EMPTY)
