from __future__ import annotations

import re

import pytest

from gatepass.sse import chunk

# What RAGFlow's chat_model.py looks for in an error before it decides what to do, in its own order.
RAGFLOW_QUOTA = re.compile(r"quota|capacity|credit|billing|balance|欠费")
RAGFLOW_REPEATS = re.compile(
    r"rate limit|429|tpm limit|too many requests|requests per minute|server|503|502|504|500|unavailable"
)
RAGFLOW_AUTH = re.compile(r"auth|key|apikey|401|forbidden|permission")


@pytest.mark.parametrize(
    "make",
    [chunk.stream_closed, chunk.stream_empty, chunk.event_too_large, chunk.event_not_json, chunk.completion_in_stream],
)
def test_no_text_makes_ragflow_repeat_the_answer_or_blame_the_key(make):
    error = make("chat")
    assert error.hop == "upstream:chat"
    for words in (RAGFLOW_QUOTA, RAGFLOW_REPEATS, RAGFLOW_AUTH):
        assert not words.search(error.message.lower())
