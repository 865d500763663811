from __future__ import annotations

import re

import pytest

from gatepass.errors import UpstreamErrorReply
from gatepass.sse import chunk
from gatepass.types import UpstreamErrorBody

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


def test_the_error_has_all_members_of_the_upstreams_error_body():
    error_body = UpstreamErrorBody("slow down", status=429, kind="k", code="c", param="p", raw={"x": 1})
    error = chunk.upstream_error_event("chat", error_body)
    assert isinstance(error, UpstreamErrorReply)
    assert (error.message, error.http_status, error.kind, error.public_code, error.param, error.raw) == (
        "slow down",
        429,
        "k",
        "c",
        "p",
        {"x": 1},
    )
    assert chunk.upstream_error_event("chat", UpstreamErrorBody("?")).http_status == 502


def test_the_error_of_a_large_event_names_its_limit_and_why_it_is_lower():
    assert "larger than limits.event_bytes," in chunk.event_too_large("chat", chunk.EVENT_BYTES).message
    lower = chunk.converted_limit("the dialect ragflow converts it")
    assert (
        "larger than 1 MiB, which applies because the dialect ragflow" in chunk.event_too_large("chat", lower).message
    )
    assert "larger" not in chunk.event_too_large("chat").message
