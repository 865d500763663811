"""Errors as clients see them: the object, the headers, and the event that ends a begun stream."""

import json
from typing import Any

import pytest
from openai import APIError

from gatepass.errors import (
    GatepassError,
    InvalidImage,
    MethodNotAllowed,
    Overloaded,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamInvalid,
    UpstreamTimeout,
)
from gatepass.protocols.error_objects import error_body, error_headers, error_object, stream_error, stream_message
from gatepass.sse.chunk import event_too_large
from tests.integration.ragflow import REPLAYED, classify
from tests.unit.sse.peer import chunks_of
from tests.unit.sse.streams import text

DANGEROUS_NAME = "server-503-unavailable"
"""A name that an operator may give to an upstream."""


def refusal(status: int = 422, message: str = "Unknown parameter: 'x'.", **fields: Any) -> UpstreamErrorReply:
    return UpstreamErrorReply(message, upstream="chat", status=status, **fields)


MESSAGE = f"the server {DANGEROUS_NAME} said 429 too many requests, 503"

WANTED: tuple[tuple[Any, dict[str, Any]], ...] = (
    (UpstreamErrorReply, {"upstream": DANGEROUS_NAME, "status": 503}),
    (UpstreamError, {"upstream": DANGEROUS_NAME}),
    (TokenUnavailable, {"credential": DANGEROUS_NAME}),
    (MethodNotAllowed, {"allow": "POST"}),
    (GatepassError, {}),
)
"""The arguments that each branch of the tree requires in addition to its message."""


def every_error() -> list[GatepassError]:
    """One error of each class, with a message that must not appear in mid-stream."""
    found: list[GatepassError] = []
    kinds: list[Any] = [GatepassError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        wanted = next(wanted for branch, wanted in WANTED if issubclass(kind, branch))
        if issubclass(kind, UpstreamTimeout):
            phases = ("connect", "first_byte", "idle", "total")
            found += [UpstreamTimeout(MESSAGE, upstream=DANGEROUS_NAME, phase=phase) for phase in phases]
        elif "code" in vars(kind) and kind is not GatepassError:
            found.append(kind(MESSAGE, **wanted))
    return found


EVERY_ERROR = every_error()


@pytest.mark.parametrize(
    ("error", "kind", "param", "code", "hop"),
    [
        (InvalidImage("No.", param="images[2]"), "invalid_request_error", "images[2]", "invalid_image", "client"),
        (
            refusal(400, "No.", kind="k", upstream_code="3280", param="tools[0]"),
            "k",
            "tools[0]",
            "3280",
            "upstream:chat",
        ),
    ],
)
def test_the_object_states_what_happened_and_where(error, kind, param, code, hop):
    assert error_object(error) == {"error": {"message": "No.", "type": kind, "param": param, "code": code, "hop": hop}}


def test_half_a_surrogate_pair_does_not_break_the_body_and_other_scripts_stay_readable():
    assert json.loads(error_body(refusal(message="cut \ud83d")))["error"]["message"] == "cut ?"
    assert "欠费".encode() in error_body(refusal(message="欠费"))


@pytest.mark.parametrize(
    ("error", "extra"),
    [
        (Overloaded("full", retry_after_s=0.2), [(b"retry-after", b"1")]),
        (UpstreamAuth("no", upstream="u", status=401), [(b"x-should-retry", b"false")]),
        (refusal(429, retry_after_s=120.0), [(b"retry-after", b"120")]),
        (refusal(429, retry_after_s=120.1), [(b"retry-after", b"121"), (b"x-should-retry", b"false")]),
        (refusal(503, retry_after_s=1e300), [(b"retry-after", b"86400"), (b"x-should-retry", b"false")]),
        (refusal(503, retry_after_s=float("nan")), []),
        (refusal(429, upstream_code="insufficient_quota"), [(b"x-should-retry", b"false")]),
        (refusal(429, kind="insufficient_user_quota"), [(b"x-should-retry", b"false")]),
        (refusal(429, upstream_code="rate_limit_exceeded", kind="invalid_request_error"), []),
        (refusal(500, kind="exceed_context_size_error"), [(b"x-should-retry", b"false")]),
        (refusal(500, upstream_code="ContextWindowExceededError"), [(b"x-should-retry", b"false")]),
        (refusal(500, kind="invalid_request_error"), [(b"x-should-retry", b"false")]),
        (refusal(500, kind="server_error"), []),
        (refusal(503, kind="invalid_request_error"), []),
        (refusal(501), [(b"x-should-retry", b"false")]),
        (refusal(400, upstream_code="content_filter"), []),
    ],
)
def test_the_headers_show_what_to_do(error, extra):
    assert error_headers(error) == [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-gatepass-hop", error.hop.encode()),
        *extra,
    ]


@pytest.mark.parametrize(
    ("status", "should_retry", "fields", "expected"),
    [
        (400, True, {}, None),
        (400, False, {}, b"false"),
        *((status, True, {}, b"true") for status in (408, 409, 429, 500, 501, 529)),
        *((status, False, {}, b"false") for status in (408, 409, 429, 500, 503)),
        (429, True, {"upstream_code": "insufficient_quota"}, b"true"),
        (429, True, {"retry_after_s": 121.0}, b"false"),
        (503, None, {}, None),
    ],
)
def test_upstreams_x_should_retry_is_relayed(status, should_retry, fields, expected):
    error = refusal(status, **fields)
    error.should_retry = should_retry
    assert dict(error_headers(error)).get(b"x-should-retry") == expected


@pytest.mark.parametrize("error", EVERY_ERROR, ids=[error.public_code for error in EVERY_ERROR])
def test_no_stream_error_makes_ragflow_repeat_the_answer(error):
    """RAGFlow classifies the text of openai's exception, which is the message of the event."""
    with pytest.raises(APIError) as caught:
        chunks_of(text("Hello") + stream_error(error, rewords=True))
    shown = caught.value
    assert isinstance(shown.body, dict)
    assert (shown.code, shown.body["hop"]) == (error.public_code, error.hop)
    assert classify(str(shown)) not in REPLAYED
    assert DANGEROUS_NAME not in str(shown)


def test_the_fault_of_an_invalid_reply_names_its_limit_in_a_stream():
    error = event_too_large("chat")
    assert "than 1 MiB where" in error.message
    assert stream_message(error) == error.message
    replayed = UpstreamInvalid("The server's reply is larger than 1 MiB.", upstream="chat")
    assert stream_message(replayed) == "The answer ends here: upstream_invalid."
    late = TokenUnavailable("The server is busy.", credential="corp")
    assert stream_message(late) == "The answer ends here: credential:corp.", "its code has a word of RAGFlow's too"


ENDS_HERE = "The answer ends here: upstream_error."
REPLAYED_WORDS = ("Rate limit reached", "Server busy", "HTTP 503", "Too Many Requests", "temporarily UNAVAILABLE")
CONTEXT = "This model's maximum context length is 8192 tokens."


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (refusal(400, CONTEXT, kind="invalid_request_error"), (CONTEXT, "invalid_request_error")),
        *((refusal(429, words, kind="server_error"), (ENDS_HERE, "stream_error")) for words in REPLAYED_WORDS),
        (refusal(400, ""), (ENDS_HERE, "invalid_request_error")),
        (refusal(503, "busy server"), (ENDS_HERE, "stream_error")),
    ],
)
def test_words_at_which_ragflow_repeats_are_not_in_the_message(error, shown):
    inner = json.loads(stream_error(error, rewords=True)[6:])["error"]
    assert (inner["message"], inner["type"]) == shown
