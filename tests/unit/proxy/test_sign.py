"""Signs of life: which form a client gets, and how each fits into the stream that it stands in."""

import json
from typing import Any

import pytest

from gatepass.config.access import BUILT_IN, PLAIN, Profile
from gatepass.proxy.keepalive import (
    COMMENT,
    COMMENT_AFTER_ID,
    EmptyDeltaKeepAlive,
    comment_keep_alive,
    keep_alive_encoder,
)
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.repair import StreamRepair
from gatepass.types import Call, ClientProtocol, Operation
from tests.unit.sse.documents import origin
from tests.unit.sse.peer import chunks_of, helper_reads
from tests.unit.sse.streams import DONE, REALISTIC, chunk, data, new_stream, text

ORIGIN = EnvelopeDefaults(lambda prefix: prefix + "1", 7, "m")
SILENT = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
OWN = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
STOP = data(chunk({}, finish="stop"))
USAGE = data(chunk(None, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}))


def read(sign: bytes) -> Any:
    assert sign.endswith(b"\n\n")
    return json.loads(sign.removeprefix(b"data: "))


def begun(*events: bytes, **more: Any):
    stream = new_stream(repair=StreamRepair(RepairOptions(include_usage=True), origin()), **more)
    for one in events:
        stream.feed(one)
    return stream


def call(name: str) -> Call:
    surface = ClientProtocol.RESPONSES if name == "responses" else ClientProtocol.CHAT
    return Call("7", Operation(name, "POST", f"/{name}", surface, ""), "", "m", b"{}", ())


@pytest.mark.parametrize(
    ("profile", "name", "sign"),
    [
        (PLAIN, "chat", COMMENT),
        (PLAIN, "responses", COMMENT),
        (BUILT_IN["dify"], "responses", None),
        (Profile(keep_alive="off"), "chat", None),
    ],
)
def test_each_client_gets_the_form_that_it_reads_or_none(profile, name, sign):
    found = keep_alive_encoder(profile, call(name), lambda: 7.9)
    assert (None if found is None else found(None)) == sign


def test_a_chunk_without_text_has_a_name_of_its_own_before_the_stream_has_one():
    sign = keep_alive_encoder(BUILT_IN["dify"], call("chat"), lambda: 7.9)
    assert sign is not None
    assert read(sign(None)) == {**OWN, "id": "chatcmpl-7", "choices": [SILENT]}
    assert sign(None) == sign(None) == sign(begun())


def test_in_a_stream_of_completions_it_is_a_piece_of_text():
    sign = keep_alive_encoder(BUILT_IN["dify"], call("completions"), lambda: 7.9)
    assert sign is not None
    said = read(sign(None))
    assert (said["object"], said["choices"]) == (
        "text_completion",
        [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}],
    )


@pytest.mark.parametrize("more", [{}, {"system_fingerprint": "fp", "service_tier": "default"}])
def test_then_it_has_the_streams(more):
    head = {name: value for name, value in {**chunk({}), **more}.items() if name != "choices"}
    stream = begun(text("a", **more), text("b", **more))
    assert read(EmptyDeltaKeepAlive(ORIGIN)(stream)) == {**head, "choices": [SILENT]}


def test_what_a_stream_does_not_tell_is_made_up():
    stream = begun(data({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}))
    assert read(EmptyDeltaKeepAlive(ORIGIN)(stream)) == {**OWN, "id": "x", "choices": [SILENT]}


def test_behind_a_finish_reason_and_the_usage_there_is_none():
    assert EmptyDeltaKeepAlive(ORIGIN)(begun(text("a"), STOP)) == b""
    assert EmptyDeltaKeepAlive(ORIGIN)(begun(text("a"), STOP, USAGE)) == b""


def test_of_several_choices_it_is_of_the_first_that_goes_on():
    events = [text("a"), STOP, data(chunk({"content": "b"}, index=1)), data(chunk({}, finish="stop", index=1))]
    signs = [EmptyDeltaKeepAlive(ORIGIN)(begun(*events[:count], choices=2)) for count in range(1, 5)]
    assert [read(sign)["choices"][0]["index"] if sign else None for sign in signs] == [0, 1, 1, None]


def test_wherever_it_may_stand_it_changes_nothing_of_what_a_client_reads():
    stream, sign, sent = begun(choices=2), EmptyDeltaKeepAlive(ORIGIN), b""
    for one in REALISTIC:
        sent += stream.feed(one) + sign(stream)
    assert sent.count(b'"delta":{"content":""},"finish_reason":null') == 11
    assert {(one.id, one.model, one.created) for one in chunks_of(sent)} == {
        ("chatcmpl-7", "gpt-4o-240806-deploy-gs", 1_700_000_000)
    }
    assert helper_reads(sent) == helper_reads(b"".join(REALISTIC))
    assert sent.endswith(REALISTIC[-3] + REALISTIC[-2] + DONE)


def test_a_comment_has_no_blank_line_of_its_own_behind_an_id():
    assert comment_keep_alive(begun(text("a"))) == COMMENT
    assert comment_keep_alive(begun(b"id: 1\n" + text("a"))) == COMMENT_AFTER_ID
