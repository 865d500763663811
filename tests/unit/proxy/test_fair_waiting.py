"""Requests that wait for a place at a full upstream: who is served, when one gives up, and that no place is lost."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gatepass.cli.story_lines import way_lines
from gatepass.config.access import hash_key
from gatepass.config.model import Config
from gatepass.errors import GatepassError
from gatepass.http_client.tls import TLSContexts
from gatepass.observability.observer import Observers, RequestRecord
from gatepass.observability.story import attempts_of, story_of
from gatepass.proxy.app_state import AppState, create_app_state, next_app_state
from gatepass.server.endpoint import ApiEndpoint
from gatepass.types import ClientRequest, OutboundRequest, Response
from tests.unit.clock import DrivenClock, settle
from tests.unit.proxy.test_attempt_retries import CREDENTIALS, Holder, Reply, Upstream, unreached
from tests.unit.proxy.test_ends import (
    Ends,
    LeavingClient,
    Stream,
    check_nothing_is_held,
    leave,
    pass_turn,
    stop,
    until_all_ended,
)
from tests.unit.proxy.test_failover import SlowClient

KEYS = {name: f"gp-{name:0>20}" for name in ("chat", "bulk", "night")}


class Held(Upstream):
    """Answers a request when `end` is called for the oldest one, or after `turns` of the event loop."""

    def __init__(self, *replies: Any, takes: set[str] | None = None, turns: int = 0) -> None:
        super().__init__(*replies, takes=takes)
        self.open: deque[asyncio.Event] = deque()
        self.users: list[str] = []
        self.most = 0
        self.turns = turns

    async def send(self, request: OutboundRequest, times: object = None) -> Response:
        self.users.append(json.loads(request.body)["user"])
        ends = asyncio.Event()
        self.open.append(ends)
        self.most = max(self.most, len(self.open))
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            if not self.turns:
                await ends.wait()
            return await super().send(request, times)
        finally:
            self.open.remove(ends)

    async def end(self) -> None:
        self.open[0].set()
        await settle()


class Stories(Ends):
    def __init__(self) -> None:
        super().__init__()
        self.ended: list[RequestRecord] = []

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
        assert all(attempt.outcome for attempt in self.began if attempt.access is request.access)
        self.requests[request.access] += 1
        self.ended.append(request)


class Full:
    """A gatepass whose upstreams each take `limit` requests at a time."""

    def __init__(
        self, *upstreams: Upstream, limit: int = 1, holder: Holder | None = None, like: Full | None = None, **queue: Any
    ) -> None:
        """`like` is one of the same settings, without a request in progress: its state is used again."""
        self.stories, self.failed, self.has_token = Stories(), list[str](), holder is not None
        self.names = ["first", "second"][: len(upstreams)]
        self.clock: DrivenClock = DrivenClock() if like is None else like.clock
        self.first_state: AppState = (
            create_app_state(self.config_of(limit, **queue), self.clock) if like is None else like.first_state
        )
        replaced = dict(self.first_state.upstreams)
        for name, upstream in zip(self.names, upstreams, strict=True):
            transport: Any = upstream  # fakes with the same methods
            held: Any = holder
            replaced[name] = replace(replaced[name], transport=transport, holder=held)
        observers = Observers([self.stories], self.failed.append)
        self.state = replace(self.first_state, upstreams=replaced, observers=observers)
        self.tasks: list[asyncio.Task[None]] = []

    def config_of(self, limit: int | None, timeouts: Any = None, weights: Any = None, model: Any = None, **queue: Any):
        upstream = {"learn": "off", "max_in_flight": limit, "timeouts": timeouts or {}, **queue}
        if self.has_token:
            upstream["credential"] = "corp"
        keys = [
            {"name": name, "hash": hash_key(key), "weight": (weights or {}).get(name, 1)} for name, key in KEYS.items()
        ]
        return Config.model_validate(
            {
                "credentials": CREDENTIALS,
                "upstreams": {name: {"base_url": f"http://{name}.example/v1", **upstream} for name in self.names},
                "models": {"m": {"targets": [{"upstream": name} for name in self.names], **(model or {})}},
                "access": {"keys": keys},
            }
        )

    def queue(self, name: str = "first"):
        return self.state.upstreams[name].state.queue

    def begin(self, user: str, client: type[LeavingClient] = LeavingClient, **members: Any) -> LeavingClient:
        """Begin a chat of the caller that `user` begins with, and return its client."""
        body = json.dumps({"model": "m", "messages": [], "user": user, **members}).encode()
        one, key = client(body), KEYS[user.rstrip("0123456789")]
        headers = (
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + key.encode()),
        )
        request = ClientRequest(user, "POST", "/v1/chat/completions", headers, "127.0.0.1", self.clock.now())
        task = asyncio.create_task(ApiEndpoint(self.state).serve(request, one))
        self.tasks.append(task)
        return one

    async def ask(
        self, *users: str, client: type[LeavingClient] = LeavingClient, **members: Any
    ) -> list[LeavingClient]:
        clients = []
        for user in users:
            clients.append(self.begin(user, client, **members))
            await settle()
        return clients

    def check_nothing_is_held(self) -> None:
        check_nothing_is_held(self.state)
        assert self.failed == []


def error_of(client: LeavingClient) -> tuple[int, str, bytes | None]:
    return client.status, json.loads(client.data)["error"]["code"], client.headers.get(b"retry-after")


OVERLOADED = (503, "overloaded", b"1")

# --- who is served


@pytest.mark.parametrize(
    ("weights", "users", "served"),
    [
        ({}, "bulk0 bulk1 bulk2 bulk3 bulk4 chat1 chat2", "bulk0 bulk1 chat1 bulk2 chat2 bulk3 bulk4"),
        ({"night": 2}, "chat0 bulk0 bulk1 bulk2 night0 night1 night2", "chat0 bulk0 night0 night1 bulk1 night2 bulk2"),
    ],
    ids=["a chat beside a bulk job", "a caller of twice the weight"],
)
async def test_callers_are_served_in_turns_by_their_weight(weights, users, served):
    upstream = Held()
    full = Full(upstream, weights=weights)
    await full.ask(*users.split())
    assert upstream.users == users.split()[:1]
    for _ in served.split():
        await upstream.end()
    assert (upstream.users, upstream.most) == (served.split(), 1)
    full.check_nothing_is_held()


async def test_a_request_leaves_an_upstream_that_fails_before_it_waits_for_another():
    first, second = Held(unreached()), Held()
    full = Full(first, second)
    await full.ask("bulk0", "bulk1", "chat1")
    await first.end()  # bulk0 goes on to `second`, which is full, and chat1 takes its place
    assert (first.users, second.users) == (["bulk0", "chat1"], ["bulk1"])
    await second.end()
    assert second.users == ["bulk1", "bulk0"]
    await first.end()
    await second.end()
    full.check_nothing_is_held()


async def test_a_stream_holds_its_place_until_its_end():
    upstream = Held(Stream())
    full = Full(upstream)
    await full.ask("chat1", stream=True)
    await full.ask("bulk1")
    await upstream.end()
    assert upstream.users == ["chat1", "bulk1"]
    await upstream.end()
    full.check_nothing_is_held()


async def test_a_client_that_does_not_read_its_whole_reply_holds_no_place():
    class Unread(LeavingClient):
        async def write(self, data: bytes, *, last: bool = False) -> None:
            await asyncio.Event().wait()

    upstream = Held()
    full = Full(upstream)
    await full.ask("bulk1", client=Unread)
    await full.ask("chat1")
    await upstream.end()
    assert upstream.users == ["bulk1", "chat1"]
    full.tasks[0].cancel()
    await upstream.end()
    full.check_nothing_is_held()


# --- streams that nobody reads


class Silent(LeavingClient):
    """Reads nothing from `since_s` on. gatepass disconnects it if it calls `abort`."""

    clock: DrivenClock
    since_s = 0.0

    def unread_s(self) -> float:
        return self.clock.now() - self.since_s

    def abort(self) -> None:
        assert self.leave is not None
        self.gave_up = True
        self.leave()


async def unread(full: Full, *asked: tuple[str, float]) -> dict[str, Silent]:
    """Return the clients of streams, each with its name and for how long it was not read."""
    found = {}
    for name, unread_s in asked:
        (client,) = await full.ask(name, client=Silent, stream=True)
        assert isinstance(client, Silent)
        client.clock, client.since_s = full.clock, full.clock.now() - unread_s
        found[name] = client
    return found


def aborted(clients: dict[str, Silent]) -> list[str]:
    return [name for name, client in clients.items() if client.gave_up]


@pytest.mark.parametrize(
    ("waits", "asked", "ended"),
    [
        ("chat1", [("bulk0", 40.0), ("bulk1", 50.0), ("night0", 900.0)], ["bulk1"]),
        ("chat1", [("bulk0", 29.0), ("bulk1", 0.0), ("night0", 31.0)], ["night0"]),
        ("chat1", [("bulk0", 25.0), ("bulk1", 0.0), ("night0", 25.0)], []),
        ("bulk2", [("bulk0", 99.0), ("bulk1", 99.0), ("night0", 99.0)], []),
        ("night1", [("bulk0", 99.0), ("bulk1", 40.0), ("night0", 900.0)], ["bulk0"]),
        ("night1", [("bulk0", 99.0), ("night0", 0.0), ("night2", 0.0)], []),
    ],
    ids=[
        *("the caller with the most places", "the only one that is unread long enough", "none is"),
        *("its own", "its caller has fewer", "its caller has more"),
    ],
)
async def test_a_stream_that_was_unread_longest_makes_room_for_another_caller(waits, asked, ended):
    upstream = Held(*[Stream()] * 4)
    full = Full(upstream, limit=3)
    clients = await unread(full, *asked)
    (waiting,) = await full.ask(waits)
    assert aborted(clients) == ended
    assert (waits in upstream.users, waiting.status) == (bool(ended), 0)
    outcomes = [one.access.outcome for one in full.stories.ended]
    assert outcomes == ["unread"] * len(ended)
    assert all(len(client.data) == 0 for client in clients.values())  # no end of the stream
    assert not any(len(client.data) for name, client in clients.items() if name in ended)
    while full.queue().holding:
        await upstream.end()
    full.check_nothing_is_held()


async def test_a_stream_is_aborted_when_it_becomes_unread_for_30_s_during_a_wait():
    upstream = Held(*[Stream()] * 4)
    full = Full(upstream, limit=2, queue_s=60)
    clients = await unread(full, ("bulk0", 10.0), ("bulk1", 20.0))
    await full.ask("chat1")
    await full.clock.advance(9.9)
    assert aborted(clients) == []
    await full.clock.advance(0.1)
    assert (aborted(clients), upstream.users) == (["bulk1"], ["bulk0", "bulk1", "chat1"])
    await full.clock.advance(100.0)
    assert aborted(clients) == ["bulk1"]


async def test_each_request_that_waits_is_given_one_place():
    upstream = Held(*[Stream()] * 9)
    full = Full(upstream, limit=4)
    clients = await unread(full, *((f"bulk{at}", 40.0 + at) for at in range(4)))
    for at, name in enumerate(("chat1", "chat2")):
        full.begin(name)
        full.begin(f"bulk{at + 4}")
    await settle()
    assert (sorted(aborted(clients)), upstream.users[4:6]) == (["bulk2", "bulk3"], ["chat1", "bulk4"])
    await full.clock.advance(1.0)
    assert len(aborted(clients)) == 3
    assert "chat2" in upstream.users


async def test_without_a_queue_the_next_request_finds_a_place():
    upstream = Held(Stream())
    full = Full(upstream, queue=0)
    clients = await unread(full, ("bulk0", 40.0))
    refused, served = await full.ask("chat1", "chat2")
    assert (error_of(refused), served.status) == (OVERLOADED, 0)
    assert (aborted(clients), upstream.users) == (["bulk0"], ["bulk0", "chat2"])


# --- who is refused


@pytest.mark.parametrize("members", [{}, {"stream": True}], ids=["whole", "stream"])
async def test_a_request_that_waited_for_queue_s_is_refused_with_its_status_and_never_sent(members):
    upstream = Held()
    full = Full(upstream)
    _, late = await full.ask("bulk1", "chat1", **members)
    await full.clock.advance(3.9)
    assert late.status == 0
    await full.clock.advance(0.1)
    assert error_of(late) == OVERLOADED
    assert b"no place became free within 4 s (upstreams.first.queue_s)" in late.data
    assert b"is at its limit of 1 (upstreams.first.max_in_flight)" in late.data
    await upstream.end()
    assert upstream.users == ["bulk1"]
    full.check_nothing_is_held()


async def test_a_request_beyond_the_places_is_refused_at_once():
    upstream = Held()
    full = Full(upstream, queue=2)
    clients = await full.ask("bulk0", "bulk1", "bulk2", "bulk3")
    assert [client.status for client in clients] == [0, 0, 0, 503]
    assert error_of(clients[3]) == OVERLOADED
    assert b"2 wait for a place (upstreams.first.queue)" in clients[3].data
    (chat,) = await full.ask("chat1")  # the caller with the most requests gives up its last place
    assert ([client.status for client in clients], chat.status) == ([0, 0, 503, 503], 0)
    for _ in range(3):
        await upstream.end()
    assert upstream.users == ["bulk0", "bulk1", "chat1"]
    full.check_nothing_is_held()


async def test_a_request_waits_for_queue_s_over_all_targets():
    first, second = Held(), Held()
    full = Full(first, second)
    *_, late = await full.ask("bulk1", "bulk2", "chat1")
    await full.clock.advance(4.0)
    assert error_of(late) == OVERLOADED
    (ended,) = full.stories.ended
    assert [one.upstream for one in attempts_of(ended.attempt)] == ["second", "first"]
    assert (first.users, second.users) == (["bulk1"], ["bulk2"])


async def test_a_request_that_waited_in_vain_goes_to_a_target_that_became_free():
    first, second = Held(), Held()
    full = Full(first, second)
    *_, late = await full.ask("bulk1", "bulk2", "chat1")
    await second.end()
    assert second.users == ["bulk2"]  # it stays in its queue
    await full.clock.advance(4.0)
    assert second.users == ["bulk2", "chat1"]
    await second.end()
    assert late.status == 200


# --- who leaves


async def test_the_total_timeout_ends_the_wait():
    upstream = Held()
    full = Full(upstream, timeouts={"total_s": 2}, queue_s=60)
    clients = await full.ask("bulk1")
    await full.clock.advance(1.0)
    clients += await full.ask("chat1")
    await full.clock.advance(1.5)
    assert upstream.users == ["bulk1", "chat1"]
    clients += await full.ask("chat2")
    await full.clock.advance(2.5)
    assert [error_of(client)[:2] for client in clients] == [(504, "upstream_timeout_total")] * 3
    full.check_nothing_is_held()


async def test_a_reload_that_raises_or_removes_the_limit_serves_those_that_wait():
    for limit in (2, None):
        upstream = Held()
        full = Full(upstream)
        await full.ask("bulk1", "bulk2")
        state = full.first_state
        state.hand_over(next_app_state(full.config_of(limit), TLSContexts(state.tls_contexts), state))
        await settle()
        assert upstream.users == ["bulk1", "bulk2"]
        await upstream.end()
        await upstream.end()
        assert not full.queue().holding


# --- what is shown


async def test_position_and_wait_are_shown():
    upstream = Held()
    full = Full(upstream)
    clients = await full.ask("bulk0", "bulk1", "chat1")
    assert gauge(full) == 2
    for _ in range(3):
        await full.clock.advance(0.5)
        await upstream.end()
    shown = [client.headers[b"server-timing"].partition(b"token;dur=0.0")[2] for client in clients]
    assert shown == [b"", b', queue;dur=500.0;desc="position 1"', b', queue;dur=1000.0;desc="position 2"']
    stories = [story_of(one, full.clock.now(), full.clock.wall(), str) for one in full.stories.ended]
    attempts = [story.attempts[0] for story in stories]
    assert [(one.queue_position, one.queue_wait_s) for one in attempts] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert "queue at position 2 1.00 s, " in "\n".join(way_lines(stories[2]))
    assert [story.timings.added_s for story in stories] == [0.0] * 3  # it is not gatepass that is slow
    assert gauge(full) == 0
    text = full.state.metrics.exposition().decode()
    for caller, wait_s in (("bulk", 0.5), ("chat", 1.0)):
        labels = f'caller="{caller}",model="m",operation="chat",upstream="first"'
        assert f"gatepass_queue_wait_seconds_sum{{{labels}}} {wait_s}" in text


def gauge(full: Full) -> float:
    text = full.state.metrics.exposition().decode()
    return float(text.partition('gatepass_queue_waiting_requests{upstream="first"} ')[2].split("\n")[0])


# --- cancellation at each await


class Slow(SlowClient):
    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        await asyncio.sleep(0)
        return await super().read_body(limit_bytes, claim)


CASES: dict[str, Callable[[], tuple[list[Upstream], dict[str, Any], dict[str, Any]]]] = {
    "a whole reply": lambda: ([Held(turns=3)], {}, {}),
    "a stream": lambda: ([Held(Stream(), Stream(), Stream(), turns=3)], {}, {"stream": True}),
    "a stream that is cut": lambda: ([Held(*(Stream(is_cut=True) for _ in range(3)), turns=3)], {}, {"stream": True}),
    "a rejected token": lambda: ([Held(takes={"new"}, turns=2)], {"holder": Holder("old", "new")}, {}),
    "the next target": lambda: ([Held(*[unreached()] * 3, turns=2), Held(turns=3)], {}, {}),
    "an error": lambda: ([Held(*[Reply({"error": {"message": "no"}}, 500) for _ in range(3)], turns=2)], {}, {}),
    "no time": lambda: ([Held(turns=9)], {"queue_s": 0.5}, {}),
    "no room": lambda: ([Held(turns=5)], {"queue": 1}, {}),
}


@pytest.mark.parametrize(("victim", "act"), [(0, leave), (1, stop), (2, leave)])
@pytest.mark.parametrize("case", CASES)
async def test_a_request_that_is_cancelled_at_any_await_loses_no_place(case, victim, act):
    """Three requests for one place. One of them is cancelled after each number of turns; the others go on."""
    full = None
    for turns in range(1, 200):
        upstreams, settings, members = CASES[case]()
        full = Full(*upstreams, like=full, **settings)
        clients = [full.begin(user, Slow, **members) for user in ("bulk0", "bulk1", "chat0")]
        for _ in range(turns):
            pass_turn(full.clock)
            await asyncio.sleep(0)
        is_over = full.tasks[victim].done()
        if not is_over:
            act(clients[victim], full.tasks[victim])
        await until_all_ended(full.tasks, full.clock)
        full.check_nothing_is_held()
        assert [upstream.most for upstream in upstreams if isinstance(upstream, Held)] <= [1, 1]
        if is_over:
            return
    raise AssertionError("the request did not end")
