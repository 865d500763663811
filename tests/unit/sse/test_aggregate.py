from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import GatepassError, UpstreamClosed
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.chunk import MAX_CHOICES, StreamSource
from tests.memory import traced_memory
from tests.unit.sse.documents import CREATED_S, clean_streams, completions, events, fed, meaning, origin
from tests.unit.sse.peer import helper_reads, strictly, strictly_legacy
from tests.unit.sse.replies import refuse_to_write
from tests.unit.sse.streams import DONE, LIMIT_BYTES, REALISTIC, chunk, data, read_error, text, with_line_ends

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
HEAD = {"id": "chatcmpl-7", "created": 1_700_000_000, "model": "gpt-4o-240806-deploy-gs"}


def aggregator(limit_bytes: int = LIMIT_BYTES, **more: Any) -> CompletionAggregator:
    return CompletionAggregator(StreamSource("chat", limit_bytes, read_error), LIMIT_BYTES, origin(), **more)


def aggregated(*blocks: bytes, **more: Any) -> dict[str, Any]:
    one = aggregator(**more)
    for block in blocks:
        one.feed(block)
    payload: dict[str, Any] = json.loads(one.finish())
    return payload


def failed(*blocks: bytes, **more: Any) -> tuple[str, str, int]:
    one = aggregator(**more)
    for block in blocks:
        one.feed(block)
    with pytest.raises(GatepassError) as caught:
        one.finish()
    assert one.failure is caught.value
    assert one.failure.hop == "upstream:chat"
    return one.failure.public_code, one.failure.message, one.failure.http_status


def reply(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    first = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {**HEAD, "object": "chat.completion", "choices": [first], **more}


def message(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "refusal": None, **more}


STOP = data(chunk({}, finish="stop"))
CALLED = data(chunk({}, finish="tool_calls"))


def joined(*deltas: dict[str, Any], end: bytes = STOP) -> Any:
    """The message that `deltas` make."""
    return aggregated(*(data(chunk(delta)) for delta in deltas), end, DONE)["choices"][0]["message"]


# --- bytes ----------------------------------------------------------------------------------------

WHOLE = {
    **HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": message(
                'He said "hi" and wrote\n\ndata: [DONE]\n\nand \'"finish_reason":"stop"\' größer 東京 🚀 plain as well',
                tool_calls=[
                    {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Bern"}'}}
                ],
            ),
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
        {"index": 1, "message": message("the other\\"), "logprobs": None, "finish_reason": "stop"},
    ],
    "usage": USAGE,
}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("gap", [b"", b" "])
def test_realistic_stream_is_joined_whatever_runs_its_events_come_in(end, gap):
    blocks = [with_line_ends(event.replace(b"data: {", b"data:" + gap + b"{"), end) for event in REALISTIC]
    for size in range(1, len(blocks) + 1):
        runs = [b"".join(blocks[at : at + size]) for at in range(0, len(blocks), size)]
        assert aggregated(*runs, choices=2) == WHOLE


def test_lines_that_carry_no_json_change_nothing():
    noise = [b": ping\n\n", b"data:\n\n", b"data: : ping\n\n", b"id: 1\n\n", b"\n", b"event: message\n: x\n\n"]
    mixed = [block for event in REALISTIC for block in (*noise, b": before\nid: 7\n" + event)]
    assert aggregated(*mixed) == aggregated(b"".join(mixed)) == WHOLE


def test_data_in_several_lines_is_one_value():
    assert joined({"content": "a"}) == message("a")
    parted = data(chunk({"content": "a"})).replace(b',"choices"', b',\ndata: "choices"')
    assert aggregated(parted, STOP, DONE)["choices"][0]["message"] == message("a")


def test_events_after_done_are_ignored():
    later = data({"error": {"message": "late"}})
    assert aggregated(text("a"), STOP, DONE, later, text("b")) == reply(message("a"))
    assert aggregated(text("a") + STOP + DONE + later + text("b")) == reply(message("a"))


# --- the top level --------------------------------------------------------------------------------


def test_first_envelope_that_is_not_empty_counts():
    first = chunk({"content": "a"}) | {"id": "", "model": None, "created": 0, "system_fingerprint": None}
    second = chunk({}, "stop") | {"system_fingerprint": "fp_1", "service_tier": "default"}
    third = second | {"id": "other", "model": "other", "created": 1, "system_fingerprint": "fp_2"}
    payload = aggregated(data(first), data(second), data(third), DONE)
    assert payload == reply(message("a"), system_fingerprint="fp_1", service_tier="default")


def test_missing_envelope_comes_from_the_origin():
    payload = aggregated(data({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}), DONE)
    assert (payload["id"], payload["created"], payload["model"]) == (
        "chatcmpl-000000000000000000000001",
        CREATED_S,
        "asked-for",
    )


def test_last_usage_is_used_and_never_added():
    blocks = [
        text("a", usage={"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12}),
        text("b", usage=USAGE),
        data(chunk({}, "stop", usage=None)),
        data(chunk(None, usage={})),
        DONE,
    ]
    one = aggregator()
    for block in blocks:
        one.feed(block)
    assert json.loads(one.finish()) == reply(message("ab"), usage=USAGE)


def test_usage_is_absent_if_none_was_received():
    one = aggregator()
    one.feed(text("a") + STOP)
    assert "usage" not in json.loads(one.finish())


def test_unknown_members_survive_with_their_last_value_and_padding_does_not():
    azure = chunk(None) | {"id": "", "model": "", "created": 0, "prompt_filter_results": [{"prompt_index": 0}]}
    last = chunk({}, "stop", citations=["u"], prompt_filter_results=[], obfuscation="xyz", x_null=None)
    payload = aggregated(data(azure), text("a", citations=["t"]), data(last), DONE)
    assert payload == reply(message("a"), citations=["u"], prompt_filter_results=[{"prompt_index": 0}])


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"code": 0, "data": {}},
        {"type": "status", "text": "x"},
        {"choices": None},
        {"choices": "x"},
        {"choices": [None, 7]},
        [],
        3,
        None,
        "x",
    ],
)
def test_chunks_without_choices_say_nothing(odd):
    assert aggregated(data(odd), text("a"), data(odd), STOP, DONE) == reply(message("a"))


# --- choices and messages -------------------------------------------------------------------------


def test_choices_come_out_in_ascending_order_each_with_its_own_text():
    blocks = [data(chunk({"content": part}, index=index)) for part, index in [("b", 1), ("a", 0), ("B", 1), ("A", 0)]]
    ends = [data(chunk({}, "length", index=1)), data(chunk({}, "stop"))]
    payload = aggregated(*blocks, *ends)
    assert [(one["index"], one["message"]["content"], one["finish_reason"]) for one in payload["choices"]] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]


def test_choices_without_index_count_by_their_places():
    choices = [{"delta": {"content": part}, "finish_reason": "stop"} for part in "ab"]
    payload = aggregated(data(chunk(None) | {"choices": choices}))
    assert [one["message"]["content"] for one in payload["choices"]] == ["a", "b"]


@pytest.mark.parametrize("repeated", ["assistant", "tool", "", None])
def test_the_first_role_that_is_not_empty_counts(repeated):
    roles = {"role": "", "content": ""}, {"role": "assistant", "content": "a"}, {"role": repeated}
    assert joined(*roles) == message("a")


def test_another_first_role_than_assistant_is_kept():
    assert joined({"role": "tool", "content": "a"}, {"role": "assistant"}) == {**message("a"), "role": "tool"}


@pytest.mark.parametrize("delta", [None, "text", 7])
def test_delta_that_is_not_an_object_adds_nothing(delta):
    odd = chunk({}) | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    assert aggregated(text("a"), data(odd), STOP) == reply(message("a"))


def test_message_in_place_of_a_delta_counts_as_one():
    odd = chunk({}) | {"choices": [{"index": 0, "message": message("Hi"), "finish_reason": "stop"}]}
    assert aggregated(data(odd), DONE) == reply(message("Hi"))


def test_messages_that_come_piece_by_piece_are_joined_until_the_end():
    odd = [{"index": 0, "message": message(part), "finish_reason": None} for part in "ab"]
    ends = [odd[1] | {"finish_reason": "stop"}, odd[1] | {"finish_reason": "stop"}]
    blocks = [data(chunk({}) | {"choices": [choice]}) for choice in (odd[0], *ends)]
    assert aggregated(*blocks, DONE) == reply(message("ab"))


def test_message_after_deltas_only_repeats_them():
    odd = chunk({}) | {"choices": [{"index": 0, "message": message("Hi"), "finish_reason": "stop"}]}
    assert aggregated(text("H"), text("i"), data(odd), DONE) == reply(message("Hi"))


def test_reasoning_refusal_and_unknown_members_are_joined():
    assert joined(
        {"reasoning_content": "H", "reasoning": "h", "x_text": "a", "x_list": [1], "x_value": {"a": 1}},
        {"reasoning_content": "m", "reasoning": "m", "x_text": "b", "x_list": [2], "x_value": {"b": 1}},
        {"refusal": "N"},
        {"refusal": "o", "annotations": [{"type": "url_citation"}]},
        {"annotations": [{"type": "other"}]},
    ) == {
        **message(None),
        "refusal": "No",
        "reasoning_content": "Hm",
        "reasoning": "hm",
        "x_text": "ab",
        "x_list": [1, 2],
        "x_value": {"b": 1},
        "annotations": [{"type": "url_citation"}, {"type": "other"}],
    }


def test_logprobs_are_extended():
    first = chunk({"content": "a"})
    first["choices"][0]["logprobs"] = {"content": [{"token": "a"}], "refusal": None}
    second = chunk({"content": "b"}, "stop")
    second["choices"][0]["logprobs"] = {"content": [{"token": "b"}]}
    payload = aggregated(data(first), data(second))
    assert payload["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}], "refusal": None}


def test_extras_of_a_choice_survive_and_an_empty_one_replaces_none():
    first, last = chunk({"content": "a"}), chunk({}, "stop")
    first["choices"][0] |= {"content_filter_results": {"hate": 1}, "stop_reason": None, "text": "a"}
    last["choices"][0] |= {"content_filter_results": {}, "stop_reason": "eos"}
    payload = aggregated(data(first), data(last))
    assert payload["choices"][0] == reply(message("a"))["choices"][0] | {
        "content_filter_results": {"hate": 1},
        "stop_reason": "eos",
    }


@pytest.mark.parametrize(
    ("deltas", "content"),
    [
        ([{"role": "assistant", "content": None}], ""),
        ([{"role": "assistant"}], ""),
        ([{"content": ""}], ""),
        ([{"content": None, "tool_calls": [{"index": 0, "id": "a"}]}], None),
        ([{"content": "", "tool_calls": [{"index": 0, "id": "a"}]}], ""),
        ([{"refusal": "No"}], None),
        ([{"audio": {"id": "a"}}], None),
        ([{"function_call": {"name": "f"}}], None),
        ([{"content": [{"type": "text", "text": "a"}]}, {"content": [{"type": "text", "text": "b"}]}],
         [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ],
)  # fmt: skip
def test_content_is_null_only_beside_another_output(deltas, content):
    assert joined(*deltas)["content"] == content


# --- tools, functions, audio ----------------------------------------------------------------------


def call(identity: str, name: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_tool_calls_are_joined_and_have_no_index():
    payload = joined(
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": "}"}}]},
        end=CALLED,
    )
    assert payload == message(None, tool_calls=[call("a", "f", "{}"), call("b", "g", "{}")])


def test_ids_names_and_types_count_once_whatever_repeats_them():
    piece = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "1"}}
    assert joined({"tool_calls": [piece]}, {"tool_calls": [piece]}, {"tool_calls": [piece | {"id": ""}]}) == message(
        None, tool_calls=[call("a", "f", "111")]
    )


def test_calls_without_index_are_distinguished_by_their_ids_and_keep_unknown_members():
    first = {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}, "extra_content": {"google": {"s": "t"}}}
    second = {"id": "b", "function": {"name": "g", "arguments": "{}", "strict": True, "x": None}}
    payload = aggregated(data(chunk({"tool_calls": [first, second]})), STOP)
    assert payload["choices"][0]["finish_reason"] == "tool_calls"
    assert payload["choices"][0]["message"]["tool_calls"] == [
        call("a", "f", '{"x":1}', extra_content={"google": {"s": "t"}}),
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}", "strict": True}},
    ]


def test_call_without_an_id_gets_one():
    payload = joined({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": None}}]})
    assert payload["tool_calls"] == [call("call_000000000000000000000001", "f", "")]


def test_custom_tools_have_an_input():
    payload = joined(
        {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "run", "input": ""}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "ls"}}]},
    )
    assert payload["tool_calls"] == [{"id": "a", "type": "custom", "custom": {"name": "run", "input": "ls"}}]


def test_legacy_function_call_is_joined_and_its_name_counts_once():
    payload = aggregated(
        data(chunk({"function_call": {"name": "", "arguments": ""}})),
        data(chunk({"function_call": {"name": "f", "arguments": "{"}})),
        data(chunk({"function_call": {"name": "f", "arguments": "}"}})),
        DONE,
    )
    assert payload == reply(message(None, function_call={"name": "f", "arguments": "{}"}), "function_call")


def test_audio_is_joined():
    payload = joined(
        {"audio": {"id": "au", "transcript": "He"}},
        {"audio": {"id": "au", "transcript": "y", "data": "YQ=="}},
        {"audio": {"data": "Yg==", "expires_at": 7}},
        {"audio": {"expires_at": 9}},
    )
    assert payload == message(None, audio={"id": "au", "expires_at": 9, "data": "YWI=", "transcript": "Hey"})


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([text("a"), data(chunk({}, "length"))], "length"),
        ([text("a", finish="stop"), data(chunk({}, ""))], "stop"),
        ([text("a"), data(chunk({}, "")), DONE], "stop"),
        ([text("a"), DONE], "stop"),
        ([data(chunk({"tool_calls": [{"id": "a", "function": {"arguments": "{}"}}]})), DONE], "tool_calls"),
        ([data(chunk({"tool_calls": [{"id": "a", "custom": {"input": "x"}}]})), DONE], "tool_calls"),
        ([data(chunk({"function_call": {"name": "f", "arguments": "{}"}})), DONE], "function_call"),
        ([data(chunk({"tool_calls": [{"id": "a"}]}, "stop"))], "tool_calls"),
        ([data(chunk({"tool_calls": [{"id": "a"}]}, "length"))], "length"),
        ([data(chunk({"content": ""}, "content_filter"))], "content_filter"),
    ],
)
def test_finish_reason(blocks, reason):
    assert aggregated(*blocks)["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"id": "a"}]},
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"city":"Ber'}}]},
        {"tool_calls": [{"id": "a", "custom": {"name": "f"}}]},
        {"function_call": {"name": "f", "arguments": '{"city"'}},
    ],
)
def test_choice_cut_before_done_is_an_error(delta):
    with pytest.raises(UpstreamClosed):
        aggregated(data(chunk(delta)), DONE)


CUT = ("upstream_closed", "The upstream ended its stream before the answer was complete.", 502)
EMPTY = ("upstream_empty", "The upstream's stream ended without an answer.", 502)


@pytest.mark.parametrize(
    "blocks",
    [
        [text("a")],
        [text("a"), data(chunk({}, ""))],
        [text("a"), data(chunk({"content": "b"}, index=1)), STOP],
    ],
)
def test_stream_that_was_cut_is_an_error(blocks):
    assert failed(*blocks) == CUT


def test_stream_with_fewer_choices_than_requested_was_cut():
    assert failed(text("a"), STOP, choices=2) == CUT
    assert len(aggregated(text("a"), STOP, DONE, choices=2)["choices"]) == 1


@pytest.mark.parametrize("blocks", [[], [DONE], [b": ping\n\n"], [data({"choices": []}), DONE]])
def test_stream_without_a_choice_is_an_error(blocks):
    assert failed(*blocks) == EMPTY


def test_error_event_has_the_upstreams_message():
    error = {"error": {"message": "boom", "type": "server_error", "code": "bad", "status": 503}}
    assert failed(text("a"), data(error), STOP, DONE) == ("bad", "boom", 503)


@pytest.mark.parametrize(
    "frame",
    [
        {"error": "boom"},
        {"object": "error", "message": "boom"},
        {"code": 500, "message": "boom"},
        chunk({}, "error") | {"error": {"message": "boom"}},
    ],
)
def test_error_is_found_in_every_shape(frame):
    assert failed(text("a"), data(frame), DONE)[1] == "boom"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b'event: error\ndata: {"message": "boom"}\n\n', "boom"),
        (b"event: error\ndata: boom\n\n", "boom"),
        (b"event: error\ndata: 7\n\n", "The upstream sent an error event without a message."),
    ],
)
def test_event_named_error_is_one(block, message):
    assert failed(text("a"), block)[1] == message


def test_event_that_is_no_json_is_an_error():
    assert failed(text("a"), b"data: {\n\n", DONE)[:2] == (
        "upstream_invalid",
        "The upstream sent an event that is not JSON.",
    )


def test_cumulative_texts_of_choices_without_an_index_are_cut_each_by_its_own():
    grown = [
        ("The answer", "Die Antwort"),
        ("The answer is", "Die Antwort ist"),
        ("The answer is 1", "Die Antwort ist 2"),
    ]
    blocks = [data({"choices": [{"delta": {"content": part}} for part in parts]}) for parts in grown]
    choices = aggregated(*blocks, DONE, cumulative=True)["choices"]
    assert [choice["message"]["content"] for choice in choices] == [*grown[-1]]


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
    many = [{"index": index, "delta": {"content": "a"}} for index in range(MAX_CHOICES + 1)]
    assert len(aggregated(data(chunk(None) | {"choices": many[1:]}), DONE)["choices"]) == MAX_CHOICES
    assert failed(data(chunk(None) | {"choices": many, "x": 1}), DONE)[0] == "upstream_invalid"


def test_nested_too_deep_to_be_written_is_an_error(monkeypatch):
    one = aggregator()
    one.feed(text("a") + STOP)
    monkeypatch.setattr("gatepass.sse.chunk.json_text", refuse_to_write)
    with pytest.raises(GatepassError, match="not JSON"):
        one.finish()


# --- /v1/completions ------------------------------------------------------------------------------


def legacy(part: str, reason: str | None = None, index: int = 0, logprobs: Any = None, **more: Any) -> bytes:
    choice = {"text": part, "index": index, "logprobs": logprobs, "finish_reason": reason, **more}
    return data({"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m", "choices": [choice]})


def test_legacy_stream_is_joined():
    payload = aggregated(
        legacy("a", logprobs={"tokens": ["a"], "text_offset": [0]}),
        legacy("b", index=1),
        legacy("c", "length", logprobs={"tokens": ["c"], "text_offset": [1]}, stop_reason="x"),
        DONE,
    )
    logprobs = {"tokens": ["a", "c"], "text_offset": [0, 1]}
    first = {"text": "ac", "index": 0, "logprobs": logprobs, "finish_reason": "length", "stop_reason": "x"}
    second = {"text": "b", "index": 1, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "m"}
    assert payload == {**head, "choices": [first, second]}


def test_legacy_reply_is_what_the_sdk_declares():
    one = aggregator()
    one.feed(
        data({"choices": [{"text": "a", "index": 0, "finish_reason": "stop"}, {"text": None, "finish_reason": "stop"}]})
        + DONE
    )
    read = strictly_legacy(one.finish())
    assert (read.id, [choice.text for choice in read.choices]) == ("cmpl-000000000000000000000001", ["a", ""])


# --- any stream -----------------------------------------------------------------------------------


@given(st.data())
def test_every_clean_stream_means_its_document_in_runs_of_any_size(draw):
    document, chunks = draw.draw(clean_streams())
    one = aggregator(choices=len(document["choices"]))
    fed(one.feed, events(chunks), draw.draw)
    assert meaning(json.loads(one.finish())) == meaning(document)


@given(clean_streams())
def test_reply_is_strictly_what_the_sdk_declares_and_what_its_helper_reads(stream):
    _, chunks = stream
    one = aggregator()
    fed(one.feed, events(chunks))
    payload = one.finish()
    strictly(payload)
    assert meaning(json.loads(payload)) == meaning(helper_reads(b"".join(events(chunks))))


@given(completions(), st.integers(0, 30))
def test_stream_cut_before_its_last_finish_reason_is_never_an_answer(document, missing):
    from gatepass.sse.synthesize import synthesize_stream

    blocks = list(synthesize_stream(document, False, origin()))
    blocks = blocks[: max(0, len(blocks) - 2 - missing)]
    one = aggregator(choices=len(document["choices"]))
    fed(one.feed, blocks)
    with pytest.raises(GatepassError) as caught:
        one.finish()
    assert caught.value.public_code == ("upstream_closed" if blocks else "upstream_empty")


@pytest.mark.parametrize("silent", [{"role": "assistant"}, {"role": "assistant", "content": ""}, {}])
def test_role_without_content_is_not_an_answer(silent):
    assert failed(data(chunk(silent)), DONE)[0] == "upstream_empty"
    assert aggregated(data(chunk(silent)), STOP, DONE) == reply(message(""))


def test_an_empty_text_choice_is_not_an_answer():
    assert failed(data({"choices": [{"text": "", "index": 0}]}), DONE)[0] == "upstream_empty"
    assert aggregated(data({"choices": [{"text": "a", "index": 0}]}), DONE)["choices"][0]["text"] == "a"


def test_the_error_in_a_choice_is_the_upstreams():
    """OpenRouter reports the failure of a provider like this."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    for error, payload in (({"message": "Provider down"}, "Provider down"), ({}, None), (True, "without a message")):
        blocks = (text("a"), data({"choices": [{**choice, "error": error}]}), DONE)
        if payload is None:
            assert aggregated(*blocks)["choices"][0]["finish_reason"] == "error"
        else:
            assert payload in failed(*blocks)[1]
