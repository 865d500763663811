"""The result of a request: its access record, and the sums over the parts of one call."""

from typing import Any

import msgspec
import pytest

from gatepass.auth.caller import Caller
from gatepass.config.model import Config
from gatepass.errors import TokenUnavailable, UpstreamClosed, UpstreamErrorReply
from gatepass.observability.observer import AccessRecord, AttemptRecord, TraceId
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.context import AGENT_LOG_CHARS, IDS_LOG_CHARS, PATH_LOG_CHARS, Attempt, RequestContext
from gatepass.proxy.failover import Failover
from gatepass.proxy.retry import Outcome, Repeat
from gatepass.proxy.routing import RouteTable
from gatepass.sse.usage import Usage
from gatepass.tokens import Token
from gatepass.types import ClientRequest, Secret, Target
from tests.unit.clock import DrivenClock
from tests.unit.normalize.calls import a_call
from tests.unit.proxy.test_failover import a_place, choose

LOAD = Caller("load", "load")


def a_context(path: str = "/v1/chat/completions", *, agent: str = "") -> RequestContext:
    blocks = {"upstreams": {"mock": {"base_url": "http://h/v1"}}}
    state = create_app_state(Config.model_validate(blocks), DrivenClock(1.0))
    headers = ((b"authorization", b"Bearer x"),)
    client_request = ClientRequest("id-1", "POST", path, headers, "127.0.0.1", 1.0, user_agent=agent.encode("latin-1"))
    return RequestContext.begin(client_request, state)


def an_attempt(context: RequestContext, model: str | None = None) -> Attempt:
    context.attempt = Attempt.begin(context.state, Target("mock", model), a_call(b"{}"))
    return context.attempt


def line(context: RequestContext, duration_s: float = 0.0) -> dict[str, Any]:
    """End the request after `duration_s`, and return its record as JSON."""
    clock = context.state.clock
    assert isinstance(clock, DrivenClock)
    clock.suspend(1.0 + duration_s - clock.now())
    context.end()
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(context.access))
    return fields


@pytest.mark.parametrize(
    ("moments", "gap_s", "gap_at_s"),
    [([7.0], 0.0, 0.0), ([2.0, 3.0, 6.0, 6.5, 8.5], 3.0, 3.0), ([1.0, 1.0, 2.0, 3.0], 1.0, 1.0)],
)
def test_reads_of_a_stream_leave_their_number_and_the_longest_gap(moments: list[float], gap_s: float, gap_at_s: float):
    attempt = an_attempt(a_context())
    for moment in moments:
        attempt.note_read(moment)
    arrivals = attempt.record.arrivals
    assert arrivals is not None
    assert (arrivals.reads, arrivals.first_s, arrivals.last_s) == (len(moments), moments[0], moments[-1])
    assert (arrivals.gap_s, arrivals.gap_at_s) == (gap_s, gap_at_s)


def test_a_secret_at_the_cut_of_the_user_agent_or_the_path_is_masked():
    path, agent = ("x" * (limit - 8) + "s3cret-of-a-key" for limit in (PATH_LOG_CHARS, AGENT_LOG_CHARS))
    context = a_context(path, agent=agent)
    context.state.redactor.learn("s3cret-of-a-key")
    assert "s3cret" not in str(line(context))


def test_a_request_that_is_not_authenticated_has_no_caller_and_no_models_and_only_the_fields_with_a_value():
    context = a_context()
    assert context.caller.models == []
    assert line(context) == {
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


def test_every_field_has_the_value_that_its_name_states():
    context = a_context("/v1/x", agent="client/1.0")
    access = context.access
    access.operation, access.caller, access.peer, access.model, access.stream = "chat", "load", "", "asked", True
    access.status, context.error, access.key_id = 502, UpstreamClosed("broke off", upstream="mock"), "0badc0de"
    access.bytes_in, access.bytes_out, access.events = 10, 20, 7
    context.head_s, context.first_byte_s = 0.5, 1.00009
    access.usage, access.empty_answer = Usage(prompt_tokens=0, total_tokens=5), True
    access.mcp_method, access.mcp_tool = "tools/call", "find"
    access.trace_id = TraceId("0af7651916cd43dd8448eb211c80319c")
    access.tokens_estimated = 12
    access.auth, access.user = "jwt", "ana@corp"
    targets = [{"upstream": "mock"}, {"upstream": "mock", "name": "deployed"}]
    blocks: Any = {"upstreams": {"mock": {"base_url": "http://h/v1"}}, "models": {"asked": {"targets": targets}}}
    route = RouteTable(Config.model_validate(blocks)).route("chat", "asked")
    failover = Failover.begin(context.state, route, a_call(b"{}"), context.client_request, LOAD, a_place)
    assert choose(failover, 0.0) is None
    first = Attempt.begin(context.state, failover.target, a_call(b"{}"), failover=failover)
    first.record.requests, first.record.token_wait_s = 1, 0.05
    first.end(Outcome.NOTHING_WRITTEN, TokenUnavailable("none", credential="c"))
    assert choose(failover, 0.0) is None
    context.attempt = first.again(Repeat.NEXT_TARGET)
    last = context.attempt.record
    last.requests, last.token_wait_s = 1, 0.2
    last.adapted, last.tried = ("done=1",), ("vain=1",)
    last.upstream_request_id = "req-1"
    fields = line(context, 3.00001)
    assert list(fields) == [name for name in AccessRecord.__struct_fields__ if name != "peer"]  # only without a caller
    assert fields == {
        "id": "id-1",
        "method": "POST",
        "path": "/v1/x",
        "operation": "chat",
        "caller": "load",
        "key_id": "0badc0de",
        "auth": "jwt",
        "user": "ana@corp",
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
        "repeats": ["next_target"],
        "adapted": ["done=1"],
        "tried": ["vain=1"],
        "failover": ["mock=token_unavailable"],
        "duration_s": 3.0,
        "ttft_s": 1.0001,
        "token_wait_s": 0.25,
        "bytes_in": 10,
        "bytes_out": 20,
        "events": 7,
        "usage": {"prompt_tokens": 0, "total_tokens": 5},
        "tokens_estimated": 12,
        "upstream_request_id": "req-1",
        "empty_answer": True,
        "mcp_method": "tools/call",
        "mcp_tool": "find",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_the_log_line_names_each_attempt_that_failed_before_whatever_repeated_it():
    context = a_context()
    attempt = an_attempt(context)
    for repeat, code in ((Repeat.RETRY, "busy"), (Repeat.NEXT_TARGET, "full"), (Repeat.NEW_TOKEN, "expired")):
        attempt.end(Outcome.ERROR_REPLY, UpstreamErrorReply("no", upstream="mock", status=400, upstream_code=code))
        attempt = context.attempt = attempt.again(repeat)
    attempt.end(Outcome.COMPLETE)
    fields = line(context)
    assert fields["repeats"] == ["retry", "next_target", "new_token"]
    assert fields["failover"] == ["mock=busy", "mock=full"]


def with_parts(context: RequestContext, count: int) -> Attempt:
    attempt = an_attempt(context)
    attempt.parts = {at: attempt.begin_part() for at in range(count)}
    for at, part in attempt.parts.items():
        part.record.upstream_request_id, part.record.requests = f"req-{at:06}", 1
    return attempt


def test_the_request_ids_of_many_parts_are_bounded_and_that_of_the_failed_one_is_first():
    attempt = with_parts(a_context(), 1_000)
    attempt.join_parts(900)
    ids = attempt.record.upstream_request_id or ""
    assert (len(ids), ids[:21]) == (IDS_LOG_CHARS, "req-000900,req-000000")


def test_parts_wait_beside_each_other_and_the_last_token_is_that_of_the_whole():
    attempt = with_parts(a_context(), 3)
    token = Token(Secret("t"), 0.0, 300.0)
    for part, wait_s in zip((attempt.parts or {}).values(), (0.5, 1.0, 0.75), strict=True):
        part.token, part.record.token_wait_s = token, wait_s
        part.record.after = AttemptRecord("id", "embeddings", "m", "chat", renewal_s=wait_s)
    attempt.join_parts(None)
    assert (attempt.token, attempt.record.token_wait_s) == (token, 2.0)


@pytest.mark.parametrize(("requests", "is_sent"), [(0, False), (1, True)])
def test_attempt_is_sent_if_a_part_sent_a_request(requests, is_sent):
    attempt = with_parts(a_context(), 1)
    (part,) = (attempt.parts or {}).values()
    part.record.requests = requests
    attempt.join_parts(0)
    assert (attempt.sent, attempt.record.requests) == (is_sent, requests)
