"""A response from the events of a stream."""

import json
from typing import Any

import pytest
from hypothesis import given

from gatepass.errors import GatepassError
from gatepass.protocols.responses import ResponseAggregator, call_fault, error_places
from gatepass.sse.chunk import StreamSource
from tests.unit.protocols.test_responses_synthesize import written
from tests.unit.sse.peer import strictly_response
from tests.unit.sse.responses import RESPONSES, call, message, part, response
from tests.unit.sse.streams import DONE, LIMIT_BYTES, data, read_error

WHOLE = response(message(part("Hi")), call())


def source(limit_bytes: int = LIMIT_BYTES) -> StreamSource:
    """Return an upstream whose errors are read where the protocol has them."""
    return StreamSource("chat", limit_bytes, lambda sent: next(filter(None, map(read_error, error_places(sent))), None))


def assembled(stream: bytes, limit_bytes: int = LIMIT_BYTES) -> Any:
    one = ResponseAggregator(source(limit_bytes), LIMIT_BYTES)
    one.feed(stream)
    return json.loads(one.finish())


def failed(stream: bytes, limit_bytes: int = LIMIT_BYTES) -> tuple[str, str]:
    with pytest.raises(GatepassError) as caught:
        assembled(stream, limit_bytes)
    return caught.value.public_code, caught.value.message


def event(kind: Any, **more: Any) -> bytes:
    return data({"type": kind, **more})


LAST = event("response.completed", response=WHOLE)


@given(RESPONSES.filter(lambda one: one["status"] != "failed" and not any(map(call_fault, one["output"]))))
def test_the_stream_of_a_response_is_that_response_again(document):
    read = assembled(written(document))
    assert read == document
    strictly_response(json.dumps(read).encode())


@pytest.mark.parametrize("end", ["completed", "incomplete"])
def test_the_last_event_has_the_response_and_after_it_no_more_is_wanted(end):
    one, is_over = ResponseAggregator(source(), LIMIT_BYTES), []
    for sent in (event("response.created", response={}), event(f"response.{end}", response=WHOLE), event("error")):
        one.feed(sent)
        is_over.append(one.is_over)
    assert is_over == [False, True, True]
    assert json.loads(one.finish()) == {**WHOLE, "status": end}


@pytest.mark.parametrize("output", [[], None])
def test_response_without_output_is_built_from_its_finished_items(output):
    items = [event("response.output_item.done", output_index=at, item=WHOLE["output"][at]) for at in (1, 0)]
    last = event("response.completed", response={**WHOLE, "output": output})
    assert assembled(b"".join(items) + last) == WHOLE


AT = {"item_id": "x", "output_index": 0, "content_index": 0}
ITEM = event("response.output_item.done", output_index=0, item=message(part("Hi")))


@pytest.mark.parametrize(
    "payload",
    [
        event("response.output_text.delta", **AT, delta="hi"),
        event("response.output_text.delta", delta="hi"),
        event("response.output_text.done", **AT, text="hi"),
        event("response.function_call_arguments.done", item_id="x", output_index=0, arguments="{}"),
        ITEM + event("response.output_text.delta", **{**AT, "output_index": 1}, delta="hi"),
    ],
)
@pytest.mark.parametrize("output", [[], None])
def test_output_that_was_received_is_never_silently_lost(payload, output):
    last = event("response.completed", response={**WHOLE, "output": output})
    assert failed(payload + last) == (
        "upstream_invalid",
        "The upstream's last event has no output, although its stream contained some.",
    )
    assert assembled(payload + LAST) == WHOLE


@pytest.mark.parametrize("item", [ITEM, ITEM.replace(b'"output_index":0,', b"")])
@pytest.mark.parametrize("place", [AT, {}])
def test_output_of_a_finished_item_is_that_item(item, place):
    received = event("response.output_text.delta", **place, delta="Hi")
    assert assembled(received + item + event("response.completed", response=response())) == response(
        message(part("Hi"))
    )


def test_an_empty_text_of_a_response_without_output_is_nothing_lost():
    received = event("response.output_text.done", **AT, text="")
    assert assembled(received + event("response.completed", response=response())) == response()


def test_pings_comments_and_strange_events_say_nothing():
    kinds: tuple[Any, ...] = ([], 5, "keepalive", None)
    odd = b": hello\n\ndata:\n\ndata: : ping\n\n" + b"".join(map(event, kinds))
    assert assembled(odd + data(["x"]) + LAST + DONE) == WHOLE


@pytest.mark.parametrize(
    ("stream", "code", "words"),
    [
        (b"", "upstream_empty", ""),
        (b": hello\n\n" + DONE, "upstream_empty", ""),
        (event("response.created", response={}), "upstream_closed", ""),
        (event("response.completed", response=None), "upstream_closed", ""),
        (b"data: {\n\n", "upstream_invalid", "not JSON"),
        (event("error", message="no room", code="busy"), "busy", "no room"),
        (event("error", message="no room", code=None), "upstream_error", "no room"),
        (b'event: error\ndata: {"message":"no room"}\n\n', "upstream_error", "no room"),
        (b"event: error\ndata: no room\n\n", "upstream_error", "no room"),
        (data({"error": {"message": "no room", "code": "busy"}}), "busy", "no room"),
        (event("response.failed", response={"error": {"code": "busy", "message": "no room"}}), "busy", "no room"),
        (event("response.failed", response={"error": None}), "upstream_error", "states no reason"),
        (event("response.completed", response={"status": "failed", "error": "no room"}), "upstream_error", "no room"),
        (event("response.incomplete", response={"status": "failed"}), "upstream_error", "states no reason"),
        (event("response.completed", response={**WHOLE, "error": {"message": "no room"}}), "upstream_error", "no room"),
    ],
)
def test_stream_without_an_answer_is_an_error(stream, code, words):
    found = failed(stream)
    assert found[0] == code
    assert words in found[1]
