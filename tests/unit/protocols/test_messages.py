"""The Messages API: a stream from a message, a message from a stream, a relayed stream, and errors."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import (
    Draining,
    GatepassError,
    InvalidApiKey,
    ModelNotFound,
    UnknownPath,
    UpstreamClosed,
    UpstreamErrorReply,
)
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.message_events import MessageAggregator, MessageProgress, MessageRepair, message_events
from gatepass.protocols.messages import COUNT_TOKENS, MESSAGES, TOO_LONG
from gatepass.sse.choice_aggregate import MAX_REPLY_ENTRIES
from gatepass.sse.chunk import StreamSource, event_of
from gatepass.sse.event_stream import EventStream
from gatepass.sse.usage import Usage
from gatepass.types import StreamedResponse
from tests.integration.messages_upstream import OTHER, TEXT, THINKING, TOOL, USAGE, message
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import LIMIT_BYTES, read_error

SOURCE = StreamSource("chat", LIMIT_BYTES, read_error)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_OBJECT = st.dictionaries(st.text(max_size=5), _JSON, max_size=3)
_BLOCKS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=20)),
    st.builds(
        lambda text, found: {"type": "text", "text": text, "citations": found},
        *(st.text(max_size=9), st.lists(_OBJECT, max_size=3) | st.none()),
    ),
    st.builds(lambda text, mark: {"type": "thinking", "thinking": text, "signature": mark}, st.text(), st.text()),
    st.builds(
        lambda kind, given: {"type": kind, "id": "toolu_1", "name": "f", "input": given},
        *(st.sampled_from(("tool_use", "server_tool_use", "mcp_tool_use")), _OBJECT),
    ),
    st.builds(lambda more: {"type": "made_up", "x": more}, _JSON),
)
_MESSAGES = st.builds(
    lambda blocks, reason, counts: message(*blocks, stop_reason=reason, usage=counts),
    st.lists(_BLOCKS, max_size=4),
    st.sampled_from(("end_turn", "max_tokens", "tool_use", "pause_turn", "refusal", None)),
    st.builds(
        lambda given, made, more: {"input_tokens": given, "output_tokens": made, **more},
        *(st.integers(0, 99), st.integers(0, 99)),
        st.dictionaries(st.sampled_from(("cache_read_input_tokens", "service_tier")), st.none() | st.integers(0, 9)),
    ),
)


def written(document: Any) -> bytes:
    return b"".join(map(event_of, message_events(document, origin())))


def assembled(*pieces: bytes) -> Any:
    one = MessageAggregator(SOURCE, LIMIT_BYTES)
    for piece in pieces:
        one.feed(piece)
    return json.loads(one.finish())


def failed(stream: bytes) -> str:
    with pytest.raises(GatepassError) as caught:
        assembled(stream)
    return caught.value.public_code


def new_stream() -> EventStream:
    return EventStream(
        SOURCE, done_is_required=False, progress=(progress := MessageProgress()), repair=MessageRepair(progress)
    )


def delta(kind: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def start(index: int = 0, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


BEGIN = {"type": "message_start", "message": message(stop_reason=None)}
END = ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},)
STOP = {"type": "message_stop"}


def joined(*payloads: dict[str, Any]) -> bytes:
    return b"".join(map(event_of, payloads))


# --- a stream from a message, and back -------------------------------------------------------------------------------


def test_the_events_of_a_message_have_anthropics_order():
    document = message(THINKING, {**TEXT, "citations": [{"type": "c"}]}, TOOL, OTHER)
    events = [*message_events(document, origin())]
    kinds = [(one["type"], one.get("delta", {}).get("type")) for one in events]
    opened, closed = ("content_block_start", None), ("content_block_stop", None)
    deltas = ("thinking_delta", "signature_delta"), ("text_delta", "citations_delta"), ("input_json_delta",), ()
    blocks = [(opened, *(("content_block_delta", kind) for kind in each), closed) for each in deltas]
    assert kinds == [("message_start", None), *sum(blocks, ()), ("message_delta", None), ("message_stop", None)]
    begun = events[0]["message"]
    assert (begun["content"], begun["stop_reason"], begun["usage"]["output_tokens"]) == ([], None, 0)
    starts = [one["content_block"] for one in events if one["type"] == "content_block_start"]
    empty_text = {**TEXT, "text": "", "citations": []}
    assert starts == [{**THINKING, "thinking": "", "signature": ""}, empty_text, {**TOOL, "input": {}}, OTHER]
    assert events[-2] == {
        "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None},
        "usage": USAGE,
    }  # fmt: skip


@given(_MESSAGES)
def test_the_stream_of_a_message_is_that_message_again(document):
    assert assembled(written(document)) == document


def test_members_that_sdks_require_are_filled_in():
    begun = next(message_events({"content": []}, origin()))["message"]
    expected = message(stop_reason=None, usage={"input_tokens": 0, "output_tokens": 0})
    del expected["stop_details"]
    assert begun == {**expected, "id": begun["id"], "model": begun["model"]}
    assert begun["id"].startswith("msg_")


@pytest.mark.parametrize("content", [["text"], [{"type": "text", "text": "a"}] * 2000])
def test_content_that_no_stream_can_carry_is_refused(content):
    with pytest.raises(ValueError, match="block"):
        written(message(*content))


def test_a_message_is_what_anthropics_helper_builds_of_its_stream():
    stream = joined(
        BEGIN,
        start(type="thinking", thinking="", signature=""),
        delta("thinking_delta", thinking="a"), delta("thinking_delta", thinking="b"),
        delta("signature_delta", signature="s1"), delta("signature_delta", signature="s2"),
        {"type": "ping"},
        start(1, type="tool_use", id="t", name="f", input={}),
        delta("input_json_delta", 1, partial_json=""), delta("input_json_delta", 1, partial_json='{"a":'),
        delta("input_json_delta", 1, partial_json="1}"),
        start(2, type="compaction", content=None), delta("compaction_delta", 2, content="short"),
        {
            "type": "message_delta", "delta": {"stop_reason": "tool_use", "container": {"id": "c"}},
            "usage": {"output_tokens": 9, "input_tokens": None}, "context_management": {"applied_edits": []},
        },
        STOP,
    )  # fmt: skip
    assert assembled(stream) == message(
        {"type": "thinking", "thinking": "ab", "signature": "s2"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        {"type": "compaction", "content": "short"},
        stop_reason="tool_use", container={"id": "c"}, context_management={"applied_edits": []},
        usage={**USAGE, "output_tokens": 9},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ((), "upstream_empty"),
        (({"type": "ping"},), "upstream_closed"),
        ((BEGIN,), "upstream_closed"),
        ((BEGIN, *END), "upstream_closed"),
        ((BEGIN, delta("text_delta", text="a"), STOP), "upstream_invalid"),
        ((BEGIN, {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}), "upstream_error"),
        ((BEGIN, *(start(at, type="text", text="") for at in range(MAX_REPLY_ENTRIES + 1)), STOP), "upstream_invalid"),
        ((BEGIN, start(), *[delta("citations_delta", citation={})] * MAX_REPLY_ENTRIES, STOP), "upstream_invalid"),
    ],
)
def test_a_stream_that_is_no_message_is_an_error(events, code):
    assert failed(joined(*events)) == code


def test_done_does_not_end_a_message():
    assert failed(joined(BEGIN) + b"data: [DONE]\n\n") == "upstream_closed"


# --- a relayed stream ------------------------------------------------------------------------------------------------


def test_a_last_event_without_the_first_one_ends_no_answer():
    stream = new_stream()
    stream.feed(joined(STOP))
    stream.finish()
    assert (stream.done, stream.failure is None) == (False, False)


def test_the_usage_is_that_of_both_events():
    stream = new_stream()
    stream.feed(joined(BEGIN))
    assert stream.usage == Usage(prompt_tokens=20, completion_tokens=7, cached_tokens=5)
    stream.feed(joined(*END))
    assert stream.usage == Usage(prompt_tokens=20, completion_tokens=9, cached_tokens=5)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"input_tokens": 3, "output_tokens": 1}, Usage(3, 1)),
        ({"output_tokens": 1}, Usage(None, 1)),
        ({"input_tokens": 3, "cache_read_input_tokens": 4}, Usage(7, cached_tokens=4)),
        ({"input_tokens": 3, "cache_creation_input_tokens": 4, "cache_read_input_tokens": None}, Usage(7)),
        ({"cache_read_input_tokens": 4, "output_tokens": 1}, Usage(None, 1, cached_tokens=4)),
        (
            {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "cache_read_input_tokens": 4},
            Usage(9, cached_tokens=4),
        ),
        ({"prompt_tokens": 9, "cache_read_input_tokens": 4}, Usage(9)),
    ],
)
def test_tokens_of_the_cache_are_tokens_of_the_prompt(usage, read):
    assert Usage.read(usage) == read


def test_an_event_without_a_name_gets_one_and_keeps_its_other_lines():
    stream = new_stream()
    assert stream.feed(b'id: 7\ndata: {"type":"ping"}\n\n') == b'event: ping\nid: 7\ndata: {"type":"ping"}\n\n'
    assert stream.feed(b'data: {"type":"a b"}\n\n') == b'data: {"type":"a b"}\n\n'
    assert stream.feed(b'id: 7\nevent: ping\ndata: {"type":"ping"}\n\n').startswith(b"id: 7\nevent: ping\n")
    assert stream.adapted == ("sse=event-name",)


# --- errors and keep-alives ------------------------------------------------------------------------------------------


TYPES = {
    402: "billing_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def upstream_error(message: str, status: int = 400, **more: Any) -> UpstreamErrorReply:
    return UpstreamErrorReply(message, upstream="chat", status=status, **more)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidApiKey("x"), "authentication_error"),
        (UnknownPath("x"), "invalid_request_error"),
        (Draining("x"), "overloaded_error"),
        (UpstreamClosed("x", upstream="chat"), "api_error"),
        *((upstream_error("x", status), kind) for status, kind in TYPES.items()),
        (upstream_error("x", 422), "invalid_request_error"),
        (upstream_error("x", 502, kind="overloaded_error"), "overloaded_error"),
        (upstream_error("x", 429, kind="made_up"), "rate_limit_error"),
    ],
)
def test_an_error_has_anthropics_form_and_type(error, kind):
    body = json.loads(MESSAGES.error_body(error, "id-1"))
    inner = {"type": kind, "message": "x", "code": error.public_code, "hop": error.hop}
    assert body == {"type": "error", "error": inner, "request_id": "id-1"}
    streamed = StreamedResponse(request_id="id-1")
    name, data = MESSAGES.stream_error(error, streamed, rewords=False).rstrip().split(b"\n")
    assert (name, json.loads(data.removeprefix(b"data: "))) == (b"event: error", body)


OWN = b'{ "type":"error", "error": {"type":"invalid_request_error","message":"prompt \\u0069s"} ,"x":1}'


def test_an_error_of_anthropic_is_recognized_unless_it_contains_a_secret():
    def mask(text: str) -> str:
        return text.replace("prompt is", "***")

    for protocol in map(PROTOCOLS.get, ("messages", "count_tokens")):
        assert protocol is not None
        assert protocol.own_error(OWN, str) == OWN
        assert protocol.own_error(OWN, mask) == b""  # behind an escape
    twice = (
        b'{"type":"error","error":{"type":"api_error","message":"\\u0070rompt is"},'
        b'"error":{"type":"api_error","message":"b"}}'
    )
    assert MESSAGES.own_error(twice, mask) == b""
    not_json = b'{"type":"error","error":{"type":"api_error","message":"b","x":NaN}}'
    assert MESSAGES.own_error(not_json, str) == b""
    for other in (
        *(b"", b"[]", b'{"error":{"type":"api_error","message":"b"}}', b'{"type":"error","error":{"message":"b"}}'),
        *(b'{"type":"error","error":{"type":"NotFoundError","message":"b"}}', b'{"type":"error","error":"b"}'),
        b'{"type":"error","error":{"type":["api_error"],"message":"b"}}',
    ):
        assert MESSAGES.own_error(other, str) == b""
    assert PROTOCOLS["chat"].own_error(OWN, str) == b""


def test_what_is_no_count_is_a_fault():
    documents: list[Any] = [{"input_tokens": 3}, {"tokens": 1}, {"input_tokens": "7"}, []]
    assert [COUNT_TOKENS.fault(one, str) is None for one in documents] == [True, False, False, False]


def test_404_is_for_an_unknown_model():
    def status(error: GatepassError) -> int:
        return MESSAGES.error_status(error)

    assert status(ModelNotFound("x")) == 404
    assert status(UnknownPath("x")) == 400
    assert status(upstream_error("The model `m` does not exist.", 404)) == 404
    assert status(upstream_error("Not Found", 404)) == 400
    assert status(upstream_error("Not Found", 405)) == 405
    assert COUNT_TOKENS.error_status(upstream_error("Not Found", 405)) == 404


@pytest.mark.parametrize(
    ("text", "room", "mark"),
    [
        ("prompt is too long: 200001 tokens > 200000 maximum", None, ""),
        ("input length and `max_tokens` exceed context limit: 1 + 2 > 2", (1, 2, 2), ""),
        (f"no room ({TOO_LONG})", None, ""),
        ("This model's maximum context length is 8192 tokens.", None, TOO_LONG),
        ("The context has 9.", (5, 6, 9), "input length and `max_tokens` exceed context limit: 5 + 6 > 9"),
    ],
)
def test_a_text_that_claude_code_does_not_know_gets_one_that_it_knows(text, room, mark):
    assert MESSAGES.overflow_mark(text, room) == mark
