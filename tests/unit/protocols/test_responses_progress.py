"""What is recorded of a relayed stream of the Responses API, for the events that end it after a failure."""

from __future__ import annotations

from typing import Any

import pytest

from gatepass.protocols.responses import MAX_NAME_CHARS, ResponseProgress
from gatepass.sse.usage import Usage
from gatepass.types import StreamedResponse

CREATED = {"id": "resp_1", "model": "m", "created_at": 7}


def noted(*events: dict[str, Any]) -> ResponseProgress:
    progress = ResponseProgress()
    for fields in events:
        assert progress.note(fields, []) == (fields.get("type") == "response.output_text.delta")
    return progress


def test_the_response_and_the_next_number_are_kept():
    created = {"type": "response.created", "sequence_number": 3, "response": CREATED}
    delta = {"type": "response.output_text.delta", "sequence_number": 4, "delta": "Hi"}
    assert noted(created).streamed == StreamedResponse("resp_1", "m", 7, 4, is_numbered=True)
    assert noted(created, delta).streamed == StreamedResponse("resp_1", "m", 7, 5, is_numbered=True)
    assert noted(created, {"type": "ping"}).streamed.next_number == 5


@pytest.mark.parametrize("odd", [None, 7, [], "x" * (MAX_NAME_CHARS + 1)])
def test_a_name_that_is_not_a_short_text_is_not_kept(odd):
    response = {"id": odd, "model": odd, "created_at": "now"}
    assert noted({"sequence_number": True, "response": response}).streamed == StreamedResponse("", "", 0, 1)


@pytest.mark.parametrize("kind", ["response.completed", "response.failed", "response.incomplete"])
def test_the_usage_is_that_of_the_last_event(kind):
    response = {**CREATED, "usage": {"total_tokens": 3}}
    begun = noted({"type": "response.created", "response": response})
    assert (begun.has_last_event, begun.usage) == (False, None)
    ended = noted({"type": kind, "response": response})
    assert (ended.has_last_event, ended.usage) == (True, Usage(total_tokens=3))
