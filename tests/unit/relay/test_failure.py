from __future__ import annotations

import re

import pytest

from gatepass.call import Complaint
from gatepass.errors import UpstreamRefusal
from gatepass.relay import failure

# What RAGFlow's chat_model.py looks for in an error before it decides what to do, in its own order.
RAGFLOW_QUOTA = re.compile(r"quota|capacity|credit|billing|balance|欠费")
RAGFLOW_REPEATS = re.compile(
    r"rate limit|429|tpm limit|too many requests|requests per minute|server|503|502|504|500|unavailable"
)
RAGFLOW_AUTH = re.compile(r"auth|key|apikey|401|forbidden|permission")


@pytest.mark.parametrize("make", [failure.closed, failure.empty, failure.too_large, failure.no_json, failure.strange])
def test_no_text_makes_ragflow_repeat_the_answer_or_blame_the_key(make):
    error = make("chat")
    assert error.hop == "upstream:chat"
    for words in (RAGFLOW_QUOTA, RAGFLOW_REPEATS, RAGFLOW_AUTH):
        assert not words.search(error.message.lower())


def test_refusal_is_the_complaint_with_a_status():
    told = Complaint("slow down", status=429, kind="k", code="c", param="p", raw={"x": 1})
    error = failure.refusal("chat", told)
    assert isinstance(error, UpstreamRefusal)
    assert (error.message, error.http_status, error.kind, error.public_code, error.param, error.raw) == (
        "slow down",
        429,
        "k",
        "c",
        "p",
        {"x": 1},
    )
    assert failure.refusal("chat", Complaint("?")).http_status == 502


OWN = {"message": "m", "type": "t", "param": None, "code": 7}
READ = Complaint("m", kind="t", code="7")


@pytest.mark.parametrize(
    ("said", "complaint", "expected"),
    [
        ({"error": OWN}, READ, True),
        ({"error": {"message": "m"}}, Complaint("m"), True),
        ({"error": {**OWN, "more": 1}}, Complaint("m", kind="t", code="7", raw={**OWN, "more": 1}), True),
        ({"error": {**OWN, "more": "tok-secret"}}, Complaint("m", kind="t", code="7", raw={**OWN, "more": "•"}), False),
        ({"error": {**OWN, "more": "too large to be kept"}}, READ, False),
        ({"error": {**OWN, "message": "tok-secret"}}, Complaint("•", kind="t", code="7"), False),
        ({"error": {**OWN, "param": "tok-secret"}}, READ, False),
        ({"error": OWN, "more": "beside it"}, READ, False),
        ({"error": {"message": 5}}, Complaint("5"), False),
        ({"error": "text"}, Complaint("text"), False),
        ({"object": "error", "message": "m"}, Complaint("m"), False),
        ([{"error": {"message": "m"}}], Complaint("m"), False),
    ],
)
def test_error_is_understood_when_it_says_in_the_common_shape_just_what_was_read(said, complaint, expected):
    assert failure.is_understood(said, complaint) is expected


@pytest.mark.parametrize(
    "message",
    [
        "The server had an error while processing your request. Sorry about that!",
        "Rate limit reached for gpt-4o",
        "Service unavailable",
        "Error code: 429",
        *(f"upstream said {status}" for status in (500, 502, 503, 504)),
    ],
)
def test_own_error_by_which_ragflow_would_replay_the_answer_is_not_passed_as_it_is(message):
    assert not failure.is_understood({"error": {"message": message}}, Complaint(message))


def test_only_the_message_is_searched_for_ragflows_words():
    said = {"error": {"message": "ran out", "type": "server_error", "code": 503}}
    assert failure.is_understood(said, Complaint("ran out", kind="server_error", code="503"))
