"""A message or a response whose last call was cut never looks complete, streamed or whole."""

import json
from contextlib import nullcontext
from typing import Any

import pytest

from gatepass.errors import UpstreamClosed, UpstreamInvalid
from gatepass.protocols import message_events, responses
from gatepass.protocols.message_events import MessageAggregator, MessageProgress, MessageRepair
from gatepass.protocols.messages import MESSAGES
from gatepass.protocols.responses import RESPONSES, ResponseAggregator, ResponseProgress, ResponseRepair
from gatepass.sse import event_stream
from gatepass.sse.asked import Asked
from gatepass.sse.chunk import EnvelopeDefaults, StreamSource, event_of, event_value
from gatepass.sse.event_stream import EventStream
from tests.integration.messages_upstream import message as a_message
from tests.unit.sse.streams import LIMIT_BYTES, code, new_stream

REQUEST = Asked(b'{"max_tokens": 9, "max_output_tokens": 9}')
SOURCE = StreamSource("chat", LIMIT_BYTES, lambda _: None)
CUT = ['{"path": "/tmp/x', "{", '{"a": tru', '{"a":1', '"half']
WHOLE = ['{"path": "/tmp/x"}', '{"a": "\\ud83d\\ude80 größer\\n"}', "{}", ""]
Made = list[dict[str, Any]]


def defaults() -> EnvelopeDefaults:
    return EnvelopeDefaults(lambda prefix: f"{prefix}1", 7, "m", REQUEST)


def read(stream: EventStream, payloads: Made) -> Made:
    """The events that the client receives."""
    out = []
    for payload in payloads:
        out.append(stream.feed(event_of(payload)))
        while stream.waiting:
            out.append(stream.feed())
    whole = b"".join([*out, stream.finish()])
    return [json.loads(one.partition(b"data: ")[2]) for one in whole.split(b"\n\n") if one]


# --- messages -------------------------------------------------------------------------------------


def of_messages() -> EventStream:
    progress = MessageProgress(REQUEST)
    return new_stream(done_is_required=False, progress=progress, repair=MessageRepair(progress))


def message(arguments: str, reason: str | None = "tool_use", tokens: int = 3, kind: str = "tool_use") -> Made:
    words = [{"type": "text_delta", "text": word} for word in "abcd"]
    parts = [{"type": "input_json_delta", "partial_json": one} for one in arguments]
    blocks = [({"type": "text", "text": ""}, words), ({"type": kind, "id": "a", "name": "f", "input": {}}, parts)]
    events: Made = [
        {"type": "message_start", "message": a_message(stop_reason=None)},
        *(
            event
            for at, (block, deltas) in enumerate(blocks)
            for event in (
                {"type": "content_block_start", "index": at, "content_block": block},
                *({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas),
                {"type": "content_block_stop", "index": at},
            )
        ),
    ]
    if reason:
        delta = {"stop_reason": reason, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}})
    return [*events, {"type": "message_stop"}]


@pytest.mark.parametrize("arguments", [WHOLE[0], CUT[0]])
def test_the_input_of_a_call_is_parsed_only_where_it_begins_and_ends(arguments, monkeypatch):
    parsed = list[bytes]()

    def noted(text: bytes, name: bytes) -> Any:
        parsed.append(text)
        return event_value(text, name)

    monkeypatch.setattr(event_stream, "event_value", noted)
    stream = of_messages()
    read(stream, message(arguments))
    assert [b"partial_json" in one for one in parsed].count(True) == 1
    assert stream.done is (arguments in WHOLE)


def test_a_text_between_the_inputs_of_a_call_ends_the_usage_before_it():
    def delta(at: int, **one: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": at, "delta": one}

    stream, events = of_messages(), message("", None)[:-2]
    words, inputs = delta(0, type="text_delta", text="b"), delta(1, type="input_json_delta", partial_json="1")
    usage = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 44}}
    call = next(one for one in events if one.get("content_block", {}).get("type") == "tool_use")
    read(stream, [*events[:4], usage, call, inputs, inputs, words, inputs, {"type": "ping"}])
    assert stream.usage is not None
    assert stream.usage.completion_tokens is None


@pytest.mark.parametrize("arguments", CUT)
@pytest.mark.parametrize("reason", ["tool_use", "end_turn", None])
def test_a_message_with_a_cut_call_fails(arguments, reason):
    stream, sent = of_messages(), message(arguments, reason)
    got = read(stream, sent)
    assert (code(stream), stream.done) == ("upstream_closed", False)
    assert "inside the arguments of a tool call" in str(stream.failure)
    assert got == sent[: sent.index({"type": "content_block_stop", "index": 1}) + 1]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        *((message(arguments), "tool_use") for arguments in WHOLE),
        (message(CUT[0], "max_tokens"), "max_tokens"),
        (message(CUT[0], "tool_use", 9), "max_tokens"),
        (message(CUT[0], kind="server_tool_use"), "tool_use"),
    ],
)
def test_a_message_that_is_whole_or_says_that_it_was_cut_is_complete(given, reason):
    stream = of_messages()
    ends = [one["delta"]["stop_reason"] for one in read(stream, given) if one["type"] == "message_delta"]
    assert (ends, stream.done, stream.failure) == ([reason], True, None)
    assert (message_events.STOP_REASON in stream.adapted) is (reason not in json.dumps(given))


@pytest.mark.parametrize(("given", "input_"), [('{"a":1}', {"a": 1}), ("", {}), (None, {}), ({"a": 1}, {"a": 1})])
def test_the_input_of_a_whole_message_is_an_object(given, input_):
    body = json.dumps(whole_message(given)).encode()
    repaired, names, _ = MESSAGES.repair(body, defaults, "chat")
    assert json.loads(repaired)["content"][0]["input"] == input_
    assert names == (() if given == input_ else (message_events.INPUT,))


def whole_message(given: Any, reason: str = "tool_use", tokens: int = 3) -> dict[str, Any]:
    block = {"type": "tool_use", "id": "a", "name": "f", "input": given}
    return {"content": [block], "stop_reason": reason, "usage": {"input_tokens": 1, "output_tokens": tokens}}


@pytest.mark.parametrize("arguments", CUT[:-1])
def test_a_whole_message_with_a_cut_call_fails_unless_a_limit_cut_it(arguments):
    with pytest.raises(UpstreamClosed):
        MESSAGES.repair(json.dumps(whole_message(arguments)).encode(), defaults, "chat")
    for limited in (whole_message(arguments, "max_tokens"), whole_message(arguments, "tool_use", 9)):
        made = json.loads(MESSAGES.repair(json.dumps(limited).encode(), defaults, "chat")[0])
        assert (made["content"], made["stop_reason"]) == ([], "max_tokens")


def test_an_aggregated_message_leaves_the_decision_to_the_check_of_the_whole():
    one = MessageAggregator(SOURCE, LIMIT_BYTES)
    for event in map(event_of, message(CUT[0])):
        one.feed(event)
    with pytest.raises(UpstreamClosed):
        MESSAGES.repair(one.finish(), defaults, "chat")


WITH_TOOLS = Asked(b'{"tools": [{"name": "f", "input_schema": {}}]}')


@pytest.mark.parametrize("asked", [WITH_TOOLS, REQUEST])
def test_a_message_that_ends_with_a_call_has_one_if_tools_were_offered(asked):
    progress = MessageProgress(asked)
    stream = new_stream(done_is_required=False, progress=progress, repair=MessageRepair(progress))
    events = [one for one in message("{}") if one.get("index") != 1]
    read(stream, events)
    assert code(stream) == ("upstream_invalid" if asked is WITH_TOOLS else None)
    text = {"type": "text", "text": "I look."}
    body = json.dumps(whole_message({}) | {"content": [text]}).encode()
    with pytest.raises(UpstreamInvalid) if asked is WITH_TOOLS else nullcontext():
        made, names, _ = MESSAGES.repair(body, lambda: EnvelopeDefaults(str, 7, "m", asked), "chat")
        assert (json.loads(made), names) == (json.loads(body), ())


def test_several_values_in_one_input_are_no_cut_call():
    stream = of_messages()
    read(stream, message('{"a":1}{"b":2}'))
    assert (code(stream), "several JSON values" in str(stream.failure)) == ("upstream_invalid", True)
    with pytest.raises(UpstreamInvalid):
        MESSAGES.repair(json.dumps(whole_message('{"a":1}{"b":2}')).encode(), defaults, "chat")
    stream = of_responses()
    read(stream, response('{"a":1}{"b":2}'))
    assert (code(stream), "several JSON values" in str(stream.failure)) == ("upstream_invalid", True)
    with pytest.raises(UpstreamInvalid):
        RESPONSES.repair(json.dumps(response('{"a":1}{"b":2}')[-1]["response"]).encode(), defaults, "chat")


# --- of any size ----------------------------------------------------------------------------------

LONG = json.dumps({"content": 'x = {"a": [1]}  # \\ 你好\n' * 60_000, "n": [{}]}, ensure_ascii=False)


def long_stream(progress: MessageProgress | ResponseProgress, repair: MessageRepair | ResponseRepair) -> EventStream:
    source = StreamSource("chat", 32 * LIMIT_BYTES, lambda _: None)
    return EventStream(source, False, progress=progress, repair=repair)


@pytest.mark.parametrize("cut_chars", [0, 1, 600_000])
@pytest.mark.parametrize("step", [2_000, 700_000, 4_000_000])
def test_an_input_of_any_size_is_checked(step, cut_chars):
    given, events = LONG[: len(LONG) - cut_chars], message("?")
    at = next(place for place, one in enumerate(events) if one.get("delta", {}).get("partial_json"))
    delta = {**events[at], "delta": {"type": "input_json_delta"}}
    parts = [given[begin : begin + step] for begin in range(0, len(given), step)]
    events[at : at + 1] = [delta | {"delta": delta["delta"] | {"partial_json": part}} for part in parts]
    stream = long_stream(progress := MessageProgress(REQUEST), MessageRepair(progress))
    got = read(stream, events)
    assert (stream.done, got == events) == ((cut_chars == 0),) * 2


def test_inputs_of_many_open_blocks_are_checked():
    begun, *_, end, stop = message("")
    block = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    opened: Made = [{"type": "content_block_start", "index": at, "content_block": block} for at in range(40)]
    cut = {"type": "content_block_delta", "index": 39, "delta": {"type": "input_json_delta", "partial_json": "{"}}
    for events, is_done in ((opened, True), ([*opened, cut], False)):
        stream = of_messages()
        read(stream, [begun, *events, end, stop])
        assert stream.done is is_done


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize(("cut_chars", "tokens"), [(0, 3), (0, 9), (1, 3), (1, 9), (600_000, 3)])
def test_arguments_of_any_size_are_checked(cut_chars, tokens, status, repeats):
    events = response(LONG[: len(LONG) - cut_chars], status, tokens, repeats=repeats)
    stream = long_stream(progress := ResponseProgress(REQUEST), ResponseRepair(progress))
    got = read(stream, events)
    is_complete = cut_chars == 0 or tokens == 9 or status == "incomplete"
    assert (stream.done, stream.failure is None) == (is_complete,) * 2
    if cut_chars == 0:
        assert got == events
    else:
        items = [one for each in got for one in (each.get("item"), *each.get("response", {}).get("output", ())) if one]
        assert [one["status"] for one in items] == [
            "completed",
            "incomplete",
            *["incomplete"] * (is_complete and repeats),
        ]
        assert items[-1] == events[3]["item"] | {"status": "incomplete"}
        assert got[-1]["type"] == ("response.incomplete" if is_complete else "response.output_item.done")
    whole = response(LONG[: len(LONG) - cut_chars], tokens=tokens)[-1]["response"]
    if cut_chars and tokens == 3:
        with pytest.raises(UpstreamClosed):
            RESPONSES.repair(json.dumps(whole).encode(), defaults, "chat")
    else:
        made = json.loads(RESPONSES.repair(json.dumps(whole).encode(), defaults, "chat")[0])
        assert (made["status"], made["output"][0]["status"]) == (("completed", "incomplete")[cut_chars],) * 2


# --- responses ------------------------------------------------------------------------------------


def of_responses() -> EventStream:
    progress = ResponseProgress(REQUEST)
    return new_stream(done_is_required=False, progress=progress, repair=ResponseRepair(progress))


def response(arguments: str, status: str = "completed", tokens: int = 3, *, repeats: bool = True) -> Made:
    call = {"type": "function_call", "id": "fc", "call_id": "a", "name": "f", "arguments": arguments}
    item = call | {"status": "completed"}
    document = {"id": "r", "status": status, "output": [item] if repeats else [], "usage": {"output_tokens": tokens}}
    events: Made = [
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": arguments},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": f"response.{status}", "response": document},
    ]
    return [one | {"sequence_number": number} for number, one in enumerate(events)]


@pytest.mark.parametrize("arguments", CUT)
@pytest.mark.parametrize("repeats", [True, False])
def test_a_response_with_a_cut_call_fails(arguments, repeats):
    stream = of_responses()
    got = read(stream, response(arguments, repeats=repeats))
    assert (code(stream), stream.done, got[-1]["item"]["status"]) == ("upstream_closed", False, "incomplete")
    whole = response(arguments)[-1]["response"]
    with pytest.raises(UpstreamClosed):
        RESPONSES.repair(json.dumps(whole).encode(), defaults, "chat")


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize(("status", "tokens"), [("incomplete", 3), ("completed", 9)])
def test_a_response_that_the_limit_cut_is_incomplete(status, tokens, repeats):
    stream, given = of_responses(), response(CUT[0], status, tokens, repeats=repeats)
    *_, last = read(stream, given)
    found = last["response"]
    assert (stream.done, stream.failure) == (True, None)
    assert (last["type"], found["status"], last["sequence_number"]) == ("response.incomplete", "incomplete", 4)
    assert [(one["arguments"], one["status"]) for one in found["output"]] == [(CUT[0], "incomplete")]
    document = {**given[-1]["response"], "incomplete_details": {"reason": "content_filter"}}
    whole = json.loads(RESPONSES.repair(json.dumps(document).encode(), defaults, "chat")[0])
    assert whole["status"] == "incomplete" or not repeats
    assert [one["status"] for one in whole["output"]] == ["incomplete"] * repeats
    assert whole["incomplete_details"] == {"reason": "content_filter"}


@pytest.mark.parametrize("arguments", WHOLE)
def test_a_whole_response_is_unchanged(arguments):
    stream, given = of_responses(), response(arguments)
    assert read(stream, given) == given
    assert (stream.done, stream.adapted) == (True, ())
    body = json.dumps(given[-1]["response"]).encode()
    assert RESPONSES.repair(body, defaults, "chat") == (body, (), False)


def test_a_last_event_without_output_gets_the_finished_items():
    stream, given = of_responses(), response("{}", repeats=False)
    first = {**given[3], "output_index": 1, "item": {"type": "message", "id": "m"}}
    *_, last = read(stream, [*given[:4], first, given[4]])
    assert [one["type"] for one in last["response"]["output"]] == ["function_call", "message"]
    assert stream.adapted == (responses.OUTPUT,)


def test_a_free_text_is_no_json():
    given = response("{}")
    item = {"type": "custom_tool_call", "call_id": "a", "name": "f", "input": '{"*** Begin', "status": "completed"}
    given[3]["item"] = item
    given[4]["response"]["output"] = [item]
    stream = of_responses()
    assert (read(stream, given), stream.failure) == (given, None)


def test_an_aggregated_response_with_a_cut_call_fails():
    one = ResponseAggregator(SOURCE, LIMIT_BYTES)
    for event in map(event_of, response(CUT[0], repeats=False)):
        one.feed(event)
    with pytest.raises(UpstreamClosed):
        RESPONSES.repair(one.finish(), defaults, "chat")
