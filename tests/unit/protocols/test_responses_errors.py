"""The events that end a failed stream of the Responses API, in the names that Codex knows."""

import json
import re
from typing import Any

import pytest

from gatepass.errors import ConcurrencyLimited, GatepassError, LimitReached, UpstreamClosed, UpstreamErrorReply
from gatepass.protocols.responses import Responses, response_error
from gatepass.types import StreamedResponse

CODEX_WAIT = re.compile(r"(?i)try again in\s*(\d+(?:\.\d+)?)\s*(s|ms|seconds?)")
"""codex-rs/codex-api/src/sse/responses.rs, `rate_limit_regex`"""


def reply(message: str = "No.", status: int = 400, **more: Any) -> UpstreamErrorReply:
    return UpstreamErrorReply(message, upstream="chat", status=status, **more)


def ended(error: GatepassError) -> tuple[str, dict[str, str]]:
    """Return the code of the `error` event, and the error of the response."""
    first, second = (
        json.loads(block.split("data: ")[1])
        for block in response_error(error, StreamedResponse("r", "m", 7, 3)).decode().split("\n\n")[:2]
    )
    assert (first["type"], first["sequence_number"], first["code"]) == ("error", 3, first["error"]["code"])
    assert (second["type"], second["sequence_number"]) == ("response.failed", 4)
    return first["code"], second["response"]["error"]


@pytest.mark.parametrize(
    ("error", "own", "code"),
    [
        (reply(upstream_code="context_length_exceeded"), "context_length_exceeded", "context_length_exceeded"),
        (reply(kind="exceed_context_size_error"), "upstream_error", "context_length_exceeded"),
        (reply(upstream_code="ContextWindowExceededError"), "ContextWindowExceededError", "context_length_exceeded"),
        (reply(status=429, upstream_code="insufficient_quota"), "insufficient_quota", "insufficient_quota"),
        (reply(status=403, upstream_code="insufficient_user_quota"), "insufficient_user_quota", "insufficient_quota"),
        (reply(status=429, upstream_code="busy"), "busy", "rate_limit_exceeded"),
        (ConcurrencyLimited("Too many requests at once."), "concurrency_limited", "rate_limit_exceeded"),
        (LimitReached("Used up.", retry_after_s=60), "limit_reached", "rate_limit_exceeded"),
        (LimitReached("Used up.", retry_after_s=3_000), "limit_reached", "insufficient_quota"),
        (UpstreamClosed("The connection closed.", upstream="chat"), "upstream_closed", "upstream_closed"),
    ],
)
def test_a_code_with_the_same_meaning_has_the_name_that_codex_knows(error, own, code):
    event_code, failure = ended(error)
    assert (event_code, failure["code"], failure.get("own_code", code)) == (own, code, own)


@pytest.mark.parametrize(
    ("message", "after_s", "wait"),
    [
        ("Slow down", 7.2, ("8", "s")),
        ("Slow down. Please try again in 1.5s.", 7.2, ("1.5", "s")),
        ("Slow down.", None, None),
        ("Slow down.", float("inf"), None),
    ],
)
def test_the_text_of_a_rate_limit_names_the_wait(message, after_s, wait):
    _, failure = ended(reply(message, 429, upstream_code="rate_limit_exceeded", retry_after_s=after_s))
    found = CODEX_WAIT.search(failure["message"])
    assert failure["message"].startswith(message)
    assert (found and found.groups()) == wait


def test_no_other_error_names_a_wait():
    _, failure = ended(reply(status=503, retry_after_s=7))
    assert CODEX_WAIT.search(failure["message"]) is None


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            LimitReached("The caller 'é\0'\r\nhas used its limit.", retry_after_s=3_000),
            "usage_limit_reached",
            b"The caller '??' has used its limit",
        ),
        (LimitReached("Used up.", retry_after_s=60), "rate_limit_error", None),
        (reply("Slow down.", 429, retry_after_s=3_000), "usage_limit_reached", b"Slow down"),
        (reply("Pay.", 429, kind="insufficient_quota"), "insufficient_quota", None),
        (reply("No.", 400, kind="invalid_request_error"), "invalid_request_error", None),
    ],
)
def test_codex_stops_with_the_text_of_a_429_that_no_client_should_wait_for(error, kind, text):
    protocol = Responses()
    assert json.loads(protocol.error_body(error, "r"))["error"]["type"] == kind
    assert dict(protocol.error_headers(error)).get(b"x-codex-promo-message") == text
