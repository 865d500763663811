"""Each attempt and each request ends exactly once, wherever it is cancelled, and what it held is free again."""

import asyncio
import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop
from typing import Any

import pytest
from msgspec.structs import replace

from gatepass.clock import Clock
from gatepass.config.model import Config
from gatepass.errors import Draining, Fault, GatepassError, TransportFault, UpstreamTimeout
from gatepass.observability.observer import AccessRecord, AttemptRecord, Observer, Observers, Refusal, RequestRecord
from gatepass.policy.limits import CONCURRENT, REQUESTS, Counts
from gatepass.proxy.admission import Admission
from gatepass.proxy.app_state import AppState
from gatepass.proxy.context import Attempt
from gatepass.proxy.retry import Outcome
from gatepass.server.endpoint import ApiEndpoint
from gatepass.types import ClientRequest, Headers, OutboundRequest, Response
from tests.integration.answers import COMPLETION
from tests.unit.clock import DrivenClock
from tests.unit.proxy.test_attempt_retries import (
    BODY,
    HIDDEN,
    Client,
    Holder,
    Reply,
    Scenario,
    Upstream,
    stale,
    unreached,
)

STREAMED = b'{"model": "m", "messages": [], "stream": true}'
VECTORS = json.dumps({"model": "m", "input": ["0", "1", "2", "3", "4"]}).encode()
MOST_TURNS = 150


class Ends(Observer):
    """Counts the ends of each request, and of each attempt while it is `watching`."""

    def __init__(self) -> None:
        self.requests: Counter[AccessRecord] = Counter()
        self.attempts: Counter[AttemptRecord] = Counter()
        self.began: list[AttemptRecord] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        begin, end = Attempt.begin, Attempt.end

        def begun(*values: Any, **named: Any) -> Attempt:
            attempt = begin(*values, **named)
            self.began.append(attempt.record)
            return attempt

        def ended(attempt: Attempt, *values: Any) -> None:
            end(attempt, *values)
            assert attempt.record.outcome in set(Outcome)
            self.attempts[attempt.record] += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Attempt, "begin", begun)
            patch.setattr(Attempt, "end", ended)
            yield

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
        assert all(attempt.outcome for attempt in self.began)
        self.requests[request.access] += 1

    def check(self, failed: list[str]) -> None:
        """Fail unless one request and each of its attempts ended once, and no observer `failed`."""
        assert set(self.attempts.values()) <= {1}
        assert set(self.attempts) == set(self.began)
        assert (list(self.requests.values()), failed) == ([1], [])


class Stream(Reply):
    """A stream of a few events, each in its own turn of the event loop, and an end."""

    def __init__(self, *, is_cut: bool = False) -> None:
        super().__init__({})
        self.headers = ((b"content-type", b"text/event-stream"),)
        self.is_open = True
        self._is_cut = is_cut

    async def __aiter__(self):
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        for text in "abc":
            await asyncio.sleep(0)  # the request can be cancelled between two events
            choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
            yield b"data: %b\n\n" % json.dumps({**chunk, "choices": [choice]}).encode()
        if self._is_cut:
            raise TransportFault(Fault.CLOSED, "reset")
        yield (
            b"data: %b\n\n"
            % json.dumps({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).encode()
        )
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        self.is_open = False

    def finish(self) -> None:
        self.is_open = False


class LeavingClient(Client):
    """Keeps the function to call when the client disconnects."""

    leave: Callable[[], None] | None = None

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self.leave = callback


DONE, REJECTED, CUT_OFF = "complete", "token_rejected", "connection_failed"
GOOD_VECTORS = {"data": [{"index": at, "embedding": [1.0]} for at in range(2)]}
CASES: dict[str, Callable[[], tuple[list[Upstream], Holder | None, bytes, list[str]]]] = {
    "a whole reply": lambda: ([Upstream()], Holder("t"), BODY, [DONE]),
    "a stream": lambda: ([Upstream(Stream())], Holder("t"), STREAMED, [DONE]),
    "a stream that is cut": lambda: ([Upstream(Stream(is_cut=True))], None, STREAMED, ["cut"]),
    "an error": lambda: ([Upstream(Reply({"error": {"message": "no"}}, 503))], None, BODY, ["error_reply"]),
    "a 401": lambda: ([Upstream(takes={"new"})], Holder("old", "new"), BODY, [REJECTED, DONE]),
    "a 401 and no other token": lambda: ([Upstream(takes=set())], Holder("old", None), BODY, [REJECTED]),
    "a rejection in a 200": lambda: ([Upstream(Reply(HIDDEN))], Holder("old", "new"), BODY, [REJECTED, DONE]),
    "a stale connection": lambda: ([Upstream(stale())], None, BODY, [CUT_OFF, DONE]),
    "another target": lambda: ([Upstream(unreached()), Upstream()], None, BODY, [CUT_OFF, DONE]),
    "no target": lambda: ([Upstream(unreached()), Upstream(unreached())], None, BODY, [CUT_OFF, CUT_OFF]),
    "no token": lambda: ([Upstream()], Holder(None), BODY, ["nothing_written"]),
    "a split call": lambda: ([Upstream(takes={"new"})], Holder("old", "new"), VECTORS, []),
    "a split call that fails": lambda: (
        [Upstream(Reply(GOOD_VECTORS), *(Reply({"error": {"message": "no"}}, 503) for _ in "ab"))],
        None,
        VECTORS,
        [],
    ),
}
"""The outcomes of the attempts: none for a split call, whose parts have their own tests."""


def a_request(state: AppState, body: bytes = BODY, path: str = "/v1/chat/completions") -> ClientRequest:
    headers = ((b"host", b"localhost"), (b"content-type", b"application/json"))
    return ClientRequest("id", "POST", path, headers, "127.0.0.1", state.clock.now())


def pass_turn(clock: Clock) -> None:
    """Let 0.1 s pass. Unlike `advance`, it gives no other turn to the event loop."""
    assert isinstance(clock, DrivenClock)
    clock.suspend(0.1)
    while clock._timers and clock._timers[0][0] <= clock.now():
        heappop(clock._timers)[2].callback()


async def until_all_ended(tasks: Sequence[asyncio.Task[None]], clock: Clock) -> None:
    """Let time pass until the requests in `tasks` have ended, and what they began."""
    for _ in range(500):
        if all(task.done() for task in tasks):
            break
        pass_turn(clock)
        await asyncio.sleep(0)
    await asyncio.wait(tasks)
    assert all(task.done() and (task.cancelled() or task.exception() is None) for task in tasks)
    if others := asyncio.all_tasks() - {asyncio.current_task()}:  # such as a fetch of a token
        await asyncio.wait(others)


def check_nothing_is_held(state: AppState) -> None:
    in_flight = state.in_flight
    assert (in_flight.busy, in_flight.held.total_bytes, sum(in_flight.concurrency.by_caller.values())) == (0, 0, 0)
    assert not in_flight.idle_streams
    for upstream in state.upstreams.values():
        queue = upstream.state.queue
        assert (queue.holding, queue.waiting, queue._lines) == (set(), {}, {})
        for health in upstream.state.healths.values():
            assert (health.in_flight, health.breaker.probe_since_s) == (0, None)


async def serve(
    request: ClientRequest,
    state: AppState,
    client: LeavingClient,
    act: Callable[[LeavingClient, asyncio.Task[None]], None] | None,
    turns: int,
) -> tuple[Ends, set[str] | None]:
    """Serve `request`, and `act` after `turns` of the event loop, with 0.1 s for each.

    Return the ends, and the names of the coroutines that waited then, None if the request was over. Whatever happened,
    each attempt and the request have ended once, and nothing is held.
    """
    ends, failed = Ends(), list[str]()
    state = replace(state, observers=Observers([ends], failed.append))
    with ends.watching():
        task = asyncio.create_task(ApiEndpoint(state).serve(request, client))
        for _ in range(turns):
            pass_turn(state.clock)
            await asyncio.sleep(0)  # one turn of the event loop: `act` must meet the request at each of its awaits
        names = None if task.done() else awaited(task)
        if act is not None and names is not None:
            act(client, task)
        await until_all_ended([task], state.clock)
    ends.check(failed)
    check_nothing_is_held(state)
    return ends, names


def awaited(task: asyncio.Task[None]) -> set[str]:
    """Return the names of the coroutines that wait for each other in `task`."""
    names = set[str]()
    coroutine: object = task.get_coro()
    while inspect.iscoroutine(coroutine):
        names.add(coroutine.cr_code.co_name)
        coroutine = coroutine.cr_await
    return names


async def run(
    case: str, act: Callable[[LeavingClient, asyncio.Task[None]], None] | None, turns: int
) -> tuple[Ends, bool]:
    """Serve the request of `case` under limits, and `act` after `turns` of the event loop, unless it is over then."""
    upstreams, holder, body, _ = CASES[case]()
    path, model = "/v1/chat/completions", dict[str, Any]()
    if body is VECTORS:
        path, model = "/v1/embeddings", {"rules": {"split": 2}}
    state = Scenario(*upstreams, holder=holder, **model).state
    admission = Admission(with_limits([*state.upstreams]), Counts(), state.clock)
    state = replace(state, admission=admission)
    ends, names = await serve(a_request(state, body, path), state, LeavingClient(body), act, turns)
    used = {(one.owner, one.unit): one.used(state.clock.now()) for one in admission.all_limits()}
    assert {owner: count for (owner, unit), count in used.items() if unit == CONCURRENT and count} == {}
    parts = math.ceil(len(json.loads(body)["input"]) / 2) if body is VECTORS else 1
    assert used[("model", "m"), REQUESTS] <= parts
    return ends, names is None


def with_limits(upstreams: list[str]) -> Config:
    limits = {"limits": {"requests": {"minute": 9}, "tokens": {"minute": 9_000}, "max_concurrent": 2}}
    return Config.model_validate(
        {
            "upstreams": {name: {"base_url": "http://h/v1", **limits} for name in upstreams},
            "models": {"m": {"upstream": upstreams[0], **limits}},
        }
    )


def leave(client: LeavingClient, task: asyncio.Task[None]) -> None:
    if client.leave is not None:
        client.leave()


def stop(client: LeavingClient, task: asyncio.Task[None]) -> None:
    task.cancel()


@pytest.mark.parametrize("act", [leave, stop])
@pytest.mark.parametrize("case", CASES)
async def test_a_request_that_is_cancelled_at_any_await_ends_once_and_has_the_outcomes_of_its_attempts(case, act):
    for turns in range(1, MOST_TURNS):
        ends, is_over = await run(case, act, turns)
        if is_over:
            if "split" not in case:
                assert [attempt.outcome for attempt in ends.began] == CASES[case]()[3]
                assert [attempt.number for attempt in ends.began] == list(range(1, len(ends.began) + 1))
            return
    raise AssertionError("the request did not end")


async def test_each_part_of_a_split_call_has_its_end():
    ends, _ = await run("a split call", None, 0)
    call, *parts = ends.began
    assert call.outcome == "complete"
    assert Counter(part.outcome for part in parts) == {"token_rejected": 3, "complete": 3}
    assert (call.requests, len(call.parts)) == (6, 3)


async def test_the_parts_that_a_failed_one_cancels_end_as_their_call():
    ends, _ = await run("a split call that fails", None, 0)
    call, *parts = ends.began
    assert call.outcome == "error_reply"
    assert {part.outcome for part in parts} <= {"complete", "error_reply"}


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (Draining("stopped"), "drained"),
        (UpstreamTimeout("late", upstream="chat", phase="total"), "timed_out"),
    ],
)
async def test_a_drain_and_the_total_timeout_are_outcomes(reason: GatepassError, outcome: str):
    called = asyncio.Event()

    class Silent(Upstream):
        async def send(self, request: OutboundRequest, times: object = None) -> Response:
            called.set()
            await asyncio.Event().wait()
            raise AssertionError("cancelled before")

    scenario, ends = Scenario(Silent()), Ends()
    state = replace(scenario.state, observers=Observers([ends], lambda _: None))
    with ends.watching():
        task = asyncio.create_task(ApiEndpoint(state).serve(a_request(state), LeavingClient(BODY)))
        await called.wait()
        (in_flight,) = state.in_flight.requests
        in_flight.cancel(reason)
        await task
    assert [attempt.outcome for attempt in ends.began] == [outcome]


async def test_an_observer_that_raises_is_counted_and_skipped(caplog):
    class Broken(Observer):
        def request_began(self, access: AccessRecord, headers: Headers) -> None:
            raise ZeroDivisionError

        def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
            raise ZeroDivisionError

        def refused(self, refusal: Refusal) -> None:
            raise ZeroDivisionError

    scenario, ends = Scenario(Upstream()), Ends()
    metrics = scenario.state.metrics
    state = replace(scenario.state, observers=Observers([Broken(), ends], metrics.observer_failed))
    scenario.state = state
    client = await scenario.handled()
    assert json.loads(client.data) == COMPLETION
    assert list(ends.requests.values()) == [1]
    assert b'gatepass_observer_failures_total{observer="Broken"} 2.0' in metrics.exposition()
    assert [record.getMessage() for record in caplog.records] == ["observer_failed"] * 2


async def test_a_reply_that_is_discarded_gives_its_memory_back():
    large = Reply({"code": 401, "msg": "token expired", "pad": "x" * 100_000})
    holder, held = Holder("old", "new"), list[int]()

    class Watched(Upstream):
        async def send(self, request, times: object = None):
            held.append(scenario.state.in_flight.held.total_bytes)
            return await super().send(request)

    scenario = Scenario(Watched(large), holder=holder)
    client = await scenario.handled()
    assert (client.status, held) == (200, [0, 0])
