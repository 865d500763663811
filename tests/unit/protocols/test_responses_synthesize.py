"""The events of a whole response, and what the SDK reads from them."""

import json
from typing import Any

import pytest
from hypothesis import given

from gatepass.errors import UpstreamInvalid
from gatepass.protocols.responses import events, synthesize_response
from tests.unit.sse.documents import CREATED_S, origin
from tests.unit.sse.peer import strict_events
from tests.unit.sse.responses import ODD_RESPONSES, RESPONSES, USAGE, message, part, reasoning, response

AT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def events_of(document: Any) -> list[dict[str, Any]]:
    return list(events(document, origin(), "u"))


def inside(document: Any) -> list[dict[str, Any]]:
    """The events of the items."""
    return [payload for payload in events_of(document) if "response" not in payload]


def names(document: Any) -> list[str]:
    return [payload["type"].removeprefix("response.") for payload in events_of(document)]


def written(document: Any) -> bytes:
    return b"".join(synthesize_response(document, origin(), "u"))


def test_a_text_has_the_events_of_the_api():
    whole = response(message(part("Hi")))
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    assert events_of(whole) == [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": message(status="in_progress")},
        {"type": "response.content_part.added", **AT, "part": part("")},
        {"type": "response.output_text.delta", **AT, "logprobs": [], "delta": "Hi"},
        {"type": "response.output_text.done", **AT, "logprobs": [], "text": "Hi"},
        {"type": "response.content_part.done", **AT, "part": part("Hi")},
        {"type": "response.output_item.done", "output_index": 0, "item": message(part("Hi"))},
        {"type": "response.completed", "response": whole},
    ]


def test_a_custom_call_has_events_of_its_own_names():
    custom = {"id": "c", "type": "custom_tool_call", "call_id": "1", "name": "n", "input": "raw"}
    assert names(response(custom))[2:-1] == [
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done")
    ]
    strict_events(written(response(custom)))


def test_reasoning_is_sent_as_summaries_and_texts_and_encrypted_content_at_the_end():
    thought = reasoning("Hm", "", content=[{"type": "reasoning_text", "text": "hm"}], encrypted_content="x")
    payload = inside(response(thought))
    assert payload[0]["item"] == {"id": "rs_1", "type": "reasoning", "summary": [], "content": []}
    assert payload[-1]["item"] == thought
    assert [one["type"].removeprefix("response.") for one in payload[1:-1]] == [
        *("reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done"),
        "reasoning_summary_part.done",
        *("reasoning_summary_part.added", "reasoning_summary_text.done", "reasoning_summary_part.done"),
        *("content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"),
    ]
    assert [one["summary_index"] for one in payload if "summary_index" in one] == [0] * 4 + [1] * 3


def test_a_refusal_and_annotations_and_logprobs_are_sent_with_their_text():
    cited = {"type": "url_citation", "start_index": 0, "end_index": 1, "title": "t", "url": "https://e.example"}
    logprob = {"token": "H", "bytes": [72], "logprob": -0.5, "top_logprobs": []}
    text_part = part("Hi", annotations=[cited], logprobs=[logprob])
    payload = inside(response(message(text_part, {"type": "refusal", "refusal": "No"})))
    assert payload[1]["part"] == {**text_part, "text": ""}
    assert [one["logprobs"] for one in payload if "logprobs" in one] == [[logprob]] * 2
    second = {**AT, "content_index": 1}
    assert payload[5:9] == [
        {"type": "response.content_part.added", **second, "part": {"type": "refusal", "refusal": ""}},
        {"type": "response.refusal.delta", **second, "delta": "No"},
        {"type": "response.refusal.done", **second, "refusal": "No"},
        {"type": "response.content_part.done", **second, "part": {"type": "refusal", "refusal": "No"}},
    ]
    strict_events(written(response(message(text_part))))


def test_an_unknown_item_is_added_and_done():
    action = {"type": "search", "query": "q"}
    odd = {"id": "w", "type": "web_search_call", "status": "completed", "action": action, "content": ["x"]}
    assert inside(response(odd)) == [
        {"type": "response.output_item.added", "output_index": 0, "item": {**odd, "status": "in_progress"}},
        {"type": "response.output_item.done", "output_index": 0, "item": odd},
    ]


@pytest.mark.parametrize(
    ("more", "last"),
    [
        ({}, "response.completed"),
        ({"status": "completed"}, "response.completed"),
        ({"status": "failed"}, "response.failed"),
        ({"status": None, "error": {"code": "server_error", "message": "no"}}, "response.failed"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "response.incomplete"),
        ({"status": "odd", "incomplete_details": {"reason": "content_filter"}}, "response.incomplete"),
        ({"status": "cancelled"}, "response.incomplete"),
    ],
)
def test_last_event_shows_how_the_response_ended(more, last):
    payload = events_of(response(message(part("Hi")), **more))
    assert [one["type"] for one in payload if "response" in one] == ["response.created", "response.in_progress", last]
    assert payload[-1]["response"]["usage"] == USAGE
    if last != "response.completed":
        assert payload[0]["response"].get("incomplete_details") is None
        assert payload[0]["response"].get("error") is None


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_unfinished_response_ends_with_its_output(status):
    finished = response(message(part("Hi")))
    assert events_of({**finished, "status": status}) == events_of(finished)
    assert events_of({**finished, "status": status})[-1] == {"type": "response.completed", "response": finished}


@pytest.mark.parametrize("output", [[], None, ""])
@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_unfinished_response_without_output_is_not_an_answer(status, output):
    with pytest.raises(UpstreamInvalid, match="not finished and has no output"):
        events_of({**response(status=status), "output": output})


def test_required_members_are_filled_in_and_equal_in_every_event():
    said = {"type": "message", "role": "assistant", "status": "completed", "content": [part("Hi")]}
    bare = {"output": [said, {"type": "function_call", "call_id": "c", "name": "", "arguments": "{}"}], "x": 1}
    payload = strict_events(written(bare))
    last = payload[-1].response
    assert (last.id, last.created_at, last.model, last.status) == (
        f"resp_{1:024x}", CREATED_S, "asked-for", "completed",
    )  # fmt: skip
    assert last.output_text == "Hi"
    assert last.model_extra == {"x": 1}
    assert {one.response.id for one in payload if hasattr(one, "response")} == {last.id}
    assert {one.item_id for one in payload if hasattr(one, "item_id")} == {item.id for item in last.output}


@given(RESPONSES)
def test_every_event_is_one_of_the_sdks_and_the_last_one_is_the_response(document):
    payload = strict_events(written(document))
    assert payload[-1].response.to_dict() == document
    items = [one.item.to_dict() for one in payload if one.type == "response.output_item.done"]
    assert items == document["output"]
    deltas = "".join(one.delta for one in payload if one.type == "response.output_text.delta")
    assert deltas == payload[-1].response.output_text


@given(ODD_RESPONSES)
def test_whatever_is_a_document_is_a_stream_that_ends(document):
    try:
        stream = written(document)
    except UpstreamInvalid:
        assert document["status"] in ("queued", "in_progress")
        return
    payload = [json.loads(block.split(b"\n")[1][6:]) for block in stream.split(b"\n\n")[:-1]]
    assert payload[0]["type"] == "response.created"
    assert payload[-1]["type"].startswith("response.")
    assert [one["sequence_number"] for one in payload] == list(range(len(payload)))
