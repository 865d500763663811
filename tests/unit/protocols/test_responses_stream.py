"""A relayed stream of the Responses API: its events pass unchanged, are recorded, and end with those of a failure."""

import json
import re
from typing import Any

import pytest

from gatepass.errors import GatepassError, Limited, UpstreamClosed, UpstreamErrorReply
from gatepass.protocols.responses import MAX_NAME_CHARS, ResponseProgress, Responses, response_error
from gatepass.sse.event_stream import EventStream
from gatepass.sse.fast_path import NumberedPath
from gatepass.sse.usage import Usage
from gatepass.types import StreamedResponse
from tests.unit.sse.streams import new_stream, pieces, with_line_ends

WORDS = ("Hel", "lo", 'a "quoted" word', "", "größer 🚀", "line\nline", "\\", "data: [DONE]", *"abcdefghijkl")
AT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
BEGUN = {"id": "resp_1", "model": "m", "created_at": 7}
CREATED = {"type": "response.created", "response": BEGUN}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_1", "usage": {"total_tokens": 3}}}


def event(payload: dict[str, Any]) -> bytes:
    return f"event: {payload['type']}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


def as_openai(number: int, payload: dict[str, Any]) -> dict[str, Any]:
    kind = payload["type"]
    padded = {"logprobs": [], "obfuscation": "x" * (number % 5)} if kind.endswith(".delta") else {}
    return {"type": kind, "sequence_number": number, **payload, **padded}


def as_vllm(number: int, payload: dict[str, Any]) -> dict[str, Any]:
    return {**payload, "sequence_number": number}


def as_llama(number: int, payload: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(payload.items()))


FORMS = (as_openai, as_vllm, as_llama)


def events_of(form: Any) -> list[bytes]:
    deltas = [{"type": "response.output_text.delta", **AT, "delta": word} for word in WORDS]
    arguments = [{"type": "response.function_call_arguments.delta", **AT, "delta": word} for word in WORDS]
    return [event(form(number, one)) for number, one in enumerate([CREATED, *deltas, *arguments, COMPLETED])]


def begun() -> EventStream:
    return new_stream(done_is_required=False, progress=ResponseProgress())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("form", FORMS)
def test_each_split_leaves_the_bytes_and_the_state(form, end):
    whole = with_line_ends(b"".join(events_of(form)), end)
    for size_bytes in (1, 2, 3, 7, 100, 1000, len(whole)):
        stream = begun()
        assert b"".join([*map(stream.feed, pieces(whole, size_bytes)), stream.finish()]) == whole
        assert (stream.done, stream.failure, stream.events) == (True, None, 2 * len(WORDS) + 2)
        assert (stream.adapted, stream.usage) == ((), Usage(total_tokens=3))


@pytest.mark.parametrize("form", [as_openai, as_vllm])
def test_the_next_number_follows_each_event(form):
    stream = begun()
    for number, one in enumerate(events_of(form)):
        stream.feed(one)
        assert (stream.streamed.next_number, stream.streamed.is_numbered) == (number + 1, True)


def numbered(number: int, word: str, **more: Any) -> bytes:
    return event(as_vllm(number, {"type": "response.output_text.delta", **AT, "delta": word, **more}))


@pytest.mark.parametrize(
    "other",
    [
        numbered(12, "b"),
        numbered(11, "b", error={}),
        numbered(11, "a b").replace(b" b", b'"b'),
        numbered(11, "b") * 2,
        numbered(11, "b")[:-1],
        b"",
    ],
)
def test_an_event_with_anything_else_is_parsed(other):
    path = NumberedPath()
    path.set_pattern(numbered(10, "a"), 1)
    assert path.count_matching(other) == 0
    assert path.count_matching(numbered(11, "b")) == 1


# --- what is recorded, for the events that end it after a failure ---


def noted(*events: dict[str, Any]) -> ResponseProgress:
    progress = ResponseProgress()
    for fields in events:
        assert progress.note(fields, []) == (fields.get("type") == "response.output_text.delta")
    return progress


def test_the_response_and_the_next_number_are_kept():
    created = {"type": "response.created", "sequence_number": 3, "response": BEGUN}
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
    response = {**BEGUN, "usage": {"total_tokens": 3}}
    begun = noted({"type": "response.created", "response": response})
    assert (begun.has_last_event, begun.usage) == (False, None)
    ended = noted({"type": kind, "response": response})
    assert (ended.has_last_event, ended.usage) == (True, Usage(total_tokens=3))


# --- the events that end a failed stream, in the names that Codex knows ---

CODEX_WAIT = re.compile(r"(?i)try again in\s*(\d+(?:\.\d+)?)\s*(s|ms|seconds?)")
"""codex-rs/codex-api/src/sse/responses.rs, `rate_limit_regex`"""


def refused(message: str = "No.", status: int = 400, **more: Any) -> UpstreamErrorReply:
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
        (refused(upstream_code="context_length_exceeded"), "context_length_exceeded", "context_length_exceeded"),
        (refused(kind="exceed_context_size_error"), "upstream_error", "context_length_exceeded"),
        (refused(upstream_code="ContextWindowExceededError"), "ContextWindowExceededError", "context_length_exceeded"),
        (refused(status=429, upstream_code="insufficient_quota"), "insufficient_quota", "insufficient_quota"),
        (refused(status=403, upstream_code="insufficient_user_quota"), "insufficient_user_quota", "insufficient_quota"),
        (refused(status=429, upstream_code="busy"), "busy", "rate_limit_exceeded"),
        (Limited("concurrency_limited", "Too many requests at once."), "concurrency_limited", "rate_limit_exceeded"),
        (Limited("limit_reached", "Used up.", retry_after_s=60), "limit_reached", "rate_limit_exceeded"),
        (Limited("limit_reached", "Used up.", retry_after_s=3_000), "limit_reached", "insufficient_quota"),
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
    _, failure = ended(refused(message, 429, upstream_code="rate_limit_exceeded", retry_after_s=after_s))
    found = CODEX_WAIT.search(failure["message"])
    assert failure["message"].startswith(message)
    assert (found and found.groups()) == wait


def test_no_other_error_names_a_wait():
    _, failure = ended(refused(status=503, retry_after_s=7))
    assert CODEX_WAIT.search(failure["message"]) is None


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            Limited("limit_reached", "The caller 'é\0'\r\nhas used its limit.", retry_after_s=3_000),
            "usage_limit_reached",
            b"The caller '??' has used its limit",
        ),
        (Limited("limit_reached", "Used up.", retry_after_s=60), "rate_limit_error", None),
        (refused("Slow down.", 429, retry_after_s=3_000), "usage_limit_reached", b"Slow down"),
        (refused("Pay.", 429, kind="insufficient_quota"), "insufficient_quota", None),
        (refused("No.", 400, kind="invalid_request_error"), "invalid_request_error", None),
    ],
)
def test_codex_stops_with_the_text_of_a_429_that_no_client_should_wait_for(error, kind, text):
    protocol = Responses()
    assert json.loads(protocol.error_body(error, "r"))["error"]["type"] == kind
    assert dict(protocol.error_headers(error)).get(b"x-codex-promo-message") == text
