"""The result of a request: its access record, its captured bodies, and the sums over the parts of one call."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.errors import UpstreamClosed
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.context import (
    AGENT_LOG_CHARS,
    BODY_KEPT_CHARS,
    IDS_LOG_CHARS,
    PATH_LOG_CHARS,
    AccessRecord,
    Attempt,
    RequestContext,
)
from gatepass.sse.usage import Usage
from gatepass.tokens import Token
from gatepass.types import ClientRequest, Secret, Target
from tests.unit.normalize.calls import CHAT, a_call

LOAD = AccessKey(name="load", hash="sha256:" + "0" * 64)


def a_context(path: str = "/v1/chat/completions", *, bodies: bool = False, agent: str = "") -> RequestContext:
    blocks = {"upstreams": {"mock": {"base_url": "http://h/v1"}}, "log": {"bodies": bodies}}
    state = create_app_state(Config.model_validate(blocks))
    headers = [(b"authorization", b"Bearer x"), *([(b"user-agent", agent.encode("latin-1"))] if agent else [])]
    client_request = ClientRequest("id-1", "POST", path, tuple(headers), "127.0.0.1", 1.0)
    return RequestContext(client_request, state, state.profiles["plain"])


def an_attempt(context: RequestContext, model: str | None = None) -> Attempt:
    return context.begin_attempt(a_call(b"{}"), Target("mock", model))


def line(context: RequestContext, duration_s: float = 0.0) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(context.record(context.outcome(), duration_s)))
    return fields


def test_outcomes_come_from_a_closed_set():
    context = a_context()
    assert context.outcome() == "ok"
    context.error = UpstreamClosed("broke off", upstream="mock")
    assert context.outcome() == "error"
    context.client_gone = True
    assert context.outcome() == "client_gone"


def test_the_record_holds_no_header_and_no_body():
    context = a_context(bodies=True)
    context.capture_request(b"a prompt")
    an_attempt(context).capture_reply(b"an answer")
    assert not [word for word in ("Bearer", "prompt", "answer") if word in str(line(context))]


def test_user_agent_is_logged_up_to_its_limit():
    assert line(a_context(agent="OpenAI/Python 3.0.0"))["user_agent"] == "OpenAI/Python 3.0.0"
    assert line(a_context(agent="ä" * 4000))["user_agent"] == "ä" * AGENT_LOG_CHARS


def test_a_secret_at_the_cut_of_the_user_agent_or_the_path_is_masked():
    path, agent = ("x" * (limit - 8) + "s3cret-of-a-key" for limit in (PATH_LOG_CHARS, AGENT_LOG_CHARS))
    context = a_context(path, agent=agent)
    context.state.redactor.learn("s3cret-of-a-key")
    assert "s3cret" not in str(line(context))


def test_fields_without_a_value_are_left_out_and_counts_are_not():
    assert line(a_context()) == {
        "id": "id-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "operation": "none",
        "peer": "127.0.0.1",
        "outcome": "ok",
        "duration_s": 0.0,
        "bytes_in": 0,
        "bytes_out": 0,
    }


def test_an_error_is_recorded_with_its_code_its_hop_and_its_reason():
    context = a_context()
    context.error = UpstreamClosed("broke off", upstream="mock")
    fields = line(context)
    assert (fields["outcome"], fields["code"], fields["hop"], fields["reason"]) == (
        "error",
        "upstream_closed",
        "upstream:mock",
        "broke off",
    )


def test_a_long_path_is_cut():
    assert len(line(a_context("/" + "x" * 60_000))["path"]) == PATH_LOG_CHARS


def test_every_field_has_the_value_that_its_name_states():
    context = a_context("/v1/x", agent="client/1.0")
    context.operation, context.caller, context.call = "chat", LOAD, a_call(b"{}", CHAT, model="asked", stream=True)
    context.failover = ("first=token_unavailable",)
    context.status, context.error = 502, UpstreamClosed("broke off", upstream="mock")
    context.bytes_in, context.bytes_out, context.events = 10, 20, 7
    context.head_s, context.first_byte_s = 0.5, 1.00009
    context.usage, context.empty_answer = Usage(prompt_tokens=0, total_tokens=5), True
    first, last = an_attempt(context), an_attempt(context, "deployed")
    first.requests, first.token_wait_s = 1, 0.05
    last.requests, last.token_wait_s = 1, 0.2
    last.renewed = last.repeated_stale = True
    last.adapted, last.learned, last.tried = ("done=1",), ("done=1",), ("vain=1",)
    last.upstream_request_id = "req-1"
    fields = line(context, 3.00001)
    assert list(fields) == [name for name in AccessRecord.__struct_fields__ if name != "peer"]  # only without a caller
    assert fields == {
        "id": "id-1",
        "method": "POST",
        "path": "/v1/x",
        "operation": "chat",
        "caller": "load",
        "user_agent": "client/1.0",
        "model": "asked",
        "upstream": "mock",
        "upstream_model": "deployed",
        "stream": True,
        "status": 502,
        "outcome": "error",
        "code": "upstream_closed",
        "hop": "upstream:mock",
        "reason": "broke off",
        "attempts": 2,
        "renewed": True,
        "repeated_stale": True,
        "adapted": ["done=1"],
        "tried": ["vain=1"],
        "failover": ["first=token_unavailable"],
        "duration_s": 3.0,
        "ttft_s": 1.0001,
        "token_wait_s": 0.25,
        "bytes_in": 10,
        "bytes_out": 20,
        "events": 7,
        "usage": {"prompt_tokens": 0, "total_tokens": 5},
        "upstream_request_id": "req-1",
        "empty_answer": True,
    }


def test_a_wait_too_short_to_record_is_left_out():
    context = a_context()
    an_attempt(context).token_wait_s = 0.00001
    fields = line(context, 0.00001)
    assert "token_wait_s" not in fields
    assert fields["duration_s"] == 0.0


def test_a_captured_body_is_cut():
    context = a_context(bodies=True)
    for _ in range(BODY_KEPT_CHARS // 1_000 + 2):
        context.capture_request(b"x" * 1_000)
        an_attempt(context).capture_reply(b"x" * 100_000)
    assert {which: len(text) for which, text in context.captured_bodies().items()} == {
        "request": BODY_KEPT_CHARS,
        "reply": BODY_KEPT_CHARS,
    }


def test_bodies_are_captured_only_if_configured():
    context = a_context()
    context.capture_request(b"a prompt")
    an_attempt(context).capture_reply(b"an answer")
    assert context.captured_bodies() == {}


@pytest.mark.parametrize("data", [b"", b"{}"])
def test_an_empty_body_is_captured_too(data):
    context = a_context(bodies=True)
    context.capture_request(data)
    assert context.captured_bodies() == {"request": data.decode()}


def test_state_of_many_parts_is_bounded():
    attempt = an_attempt(a_context(bodies=True))
    for number in range(1_000):
        part = attempt.begin_part()
        part.upstream_request_id = f"req-{number:06}"
        part.capture_reply(b"x" * 1_000)
        attempt.end_part(part, failed=False)
    assert (len(attempt.upstream_request_id or ""), len(attempt.reply_text or "")) == (IDS_LOG_CHARS, BODY_KEPT_CHARS)


def test_parts_wait_beside_each_other_and_the_last_token_is_that_of_the_whole():
    attempt = an_attempt(a_context())
    token = Token(Secret("t"), 0.0, 300.0)
    for wait_s in (0.5, 2.0, 1.0):
        part = attempt.begin_part()
        part.token, part.token_wait_s = token, wait_s
        attempt.end_part(part, failed=False)
    assert (attempt.token, attempt.token_wait_s) == (token, 2.0)


def test_a_part_that_sent_nothing_changes_nothing():
    attempt = an_attempt(a_context())
    first = attempt.begin_part()
    first.upstream_request_id, first.requests = "req-1", 1
    attempt.end_part(first, failed=False)
    attempt.end_part(attempt.begin_part(), failed=False)
    assert (attempt.upstream_request_id, attempt.requests, attempt.reply_text) == ("req-1", 1, None)


@pytest.mark.parametrize(("requests", "written"), [(0, False), (1, True)])
def test_attempt_is_written_if_a_part_sent_a_request(requests, written):
    attempt = an_attempt(a_context())
    part = attempt.begin_part()
    part.requests = requests
    attempt.end_part(part, failed=True)
    assert attempt.written is written


def test_no_caller_is_recorded_before_the_request_is_authenticated_and_it_may_use_no_model():
    context = a_context()
    assert "caller" not in line(context)
    assert context.caller.models == []
