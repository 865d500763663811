import re

import pytest

from gatepass.errors import UpstreamErrorReply
from gatepass.sse import chunk
from gatepass.sse.chunk import MAX_ENTRIES, MEMBERS_OF_ENTRY, complete_envelope, has_too_many_entries, text_of_id
from gatepass.types import UpstreamErrorBody
from tests.unit.sse.documents import CREATED_S, origin

MEMBERS = dict.fromkeys(map(str, range(MEMBERS_OF_ENTRY)))
FULL = MAX_ENTRIES // 2
"""This many choices, each with one more entry, are as many as are allowed."""


@pytest.mark.parametrize(
    "choice",
    [
        MEMBERS,
        {"delta": MEMBERS},
        {"message": MEMBERS},
        {"delta": {"tool_calls": [{}]}},
        {"message": {"tool_calls": [None]}},
    ],
    ids=["choice", "delta", "message", "call of a delta", "call of a message"],
)
def test_members_and_calls_of_choices_count_as_entries(choice):
    assert not has_too_many_entries([choice] * FULL)
    assert has_too_many_entries([choice] * FULL + [{}])


@pytest.mark.parametrize("other", [None, 3, {"delta": None}, {"message": [1]}, {"delta": {"tool_calls": {"a": 1}}}])
def test_each_choice_of_any_form_is_one_entry(other):
    assert not has_too_many_entries([other] * MAX_ENTRIES)
    assert has_too_many_entries([other] * (MAX_ENTRIES + 1))
    assert not has_too_many_entries(dict.fromkeys(range(MAX_ENTRIES + 1), other))


MADE = {"id": "p-000000000000000000000001", "object": "o", "created": CREATED_S, "model": "asked-for"}
WHOLE = {"id": "a", "object": "x", "created": 7, "model": "m", "system_fingerprint": None, "service_tier": "t"}


@pytest.mark.parametrize(
    ("payload", "envelope"),
    [
        (WHOLE, WHOLE | {"object": "o"}),
        *((payload, MADE) for payload in ({}, {"id": "", "created": 0, "model": ""}, {"created": float("inf")})),
        ({"id": ["x"], "created": True, "model": 3}, MADE),
        ({"created": 12.9}, MADE | {"created": 12}),
    ],
    ids=["complete", "missing", "empty", "infinite", "of other types", "a fraction"],
)
def test_an_envelope_lacks_nothing(payload, envelope):
    assert complete_envelope(payload, origin(), "o", "p-") == envelope


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (0, "0"), (17, "17"), (True, ""), (None, ""), ([], ""), ("", "")]
)
def test_id_as_text(value, text):
    assert text_of_id(value) == text


# What RAGFlow's chat_model.py looks for in an error before it decides what to do, in its own order.
RAGFLOW_QUOTA = re.compile(r"quota|capacity|credit|billing|balance|欠费")
RAGFLOW_REPEATS = re.compile(
    r"rate limit|429|tpm limit|too many requests|requests per minute|server|503|502|504|500|unavailable"
)
RAGFLOW_AUTH = re.compile(r"auth|key|apikey|401|forbidden|permission")


@pytest.mark.parametrize(
    "make",
    [chunk.stream_closed, chunk.stream_empty, chunk.event_too_large, chunk.event_not_json, chunk.line_too_long],
)
def test_no_text_makes_ragflow_repeat_the_answer_or_blame_the_key(make):
    error = make("chat")
    assert error.hop == "upstream:chat"
    for words in (RAGFLOW_QUOTA, RAGFLOW_REPEATS, RAGFLOW_AUTH):
        assert not words.search(error.message.lower())


def test_the_error_has_all_members_of_the_upstreams_error_body():
    error_body = UpstreamErrorBody("slow down", status=429, kind="k", code="c", param="p")
    error = chunk.upstream_error_event("chat", error_body)
    assert isinstance(error, UpstreamErrorReply)
    assert (error.message, error.http_status, error.kind, error.public_code, error.param) == (
        "slow down",
        429,
        "k",
        "c",
        "p",
    )
    assert chunk.upstream_error_event("chat", UpstreamErrorBody("?")).http_status == 502
