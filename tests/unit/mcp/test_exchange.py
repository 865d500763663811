"""Requests to an MCP server: each ends exactly once wherever it is cancelled, and a comment never splits an event."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gatepass.config.model import Config
from gatepass.mcp.exchange import PassedEvents
from gatepass.observability.observer import Observers
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.proxy.client_response import EVERY_S
from gatepass.server.endpoint import ApiEndpoint
from gatepass.sse.chunk import StreamSource
from gatepass.types import ClientRequest, Headers
from tests.unit.clock import DrivenClock
from tests.unit.proxy.test_attempt_retries import CREDENTIALS, Client, Holder, Reply, Upstream, stale
from tests.unit.proxy.test_ends import MOST_TURNS, Ends, LeavingClient, Stream, leave, serve, stop

READ = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write"}}'
NOTIFICATION = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
LARGE = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write","text":"%b"}}' % (b"x" * 200_000)
RESULT = {"jsonrpc": "2.0", "id": 1, "result": {}}


class Idle(Stream):
    """A stream of one event, and no end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"
        await asyncio.Event().wait()


class Answered(Stream):
    """A stream with the response, and a comment and another message after it."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'data: {"method":"notifications/progress"}\n\n'
        yield b"data: " + json.dumps(RESULT).encode() + b"\n\n"
        yield b": keep-alive\n\n"
        yield b'data: {"method":"notifications/message"}\n\n'


class Server(Upstream):
    async def send(self, request: Any, times: object = None) -> Any:
        if not self.replies:
            self.replies.append(Reply(RESULT))
        return await super().send(request, times)


def state_of(upstream: Upstream, holder: Holder | None = None, **blocks: Any) -> AppState:
    config: dict[str, Any] = {
        "upstreams": {"chat": {"base_url": "http://chat.example/v1"}},
        "mcp": {"tools": {"url": "http://mcp.example/mcp"}},
        **blocks,
    }
    if holder is not None:
        config["credentials"] = CREDENTIALS
        config["mcp"]["tools"]["credential"] = "corp"
    state = create_app_state(Config.model_validate(config), DrivenClock())
    name, one = "mcp/tools", state.upstreams["mcp/tools"]
    fakes: Any = {"transport": upstream, "holder": holder}  # with the same methods
    one = replace(one, **fakes)
    return replace(state, upstreams={**state.upstreams, name: one})


def request(state: AppState, method: str = "POST", more: Headers = ()) -> ClientRequest:
    headers = ((b"host", b"localhost"), (b"content-type", b"application/json"), *more)
    return ClientRequest("id", method, "/mcp/tools", headers, "127.0.0.1", state.clock.now())


CASES: dict[str, Callable[[], tuple[Upstream, Holder | None, bytes, list[str]]]] = {
    "a reply": lambda: (Server(), Holder("t"), READ, ["complete"]),
    "a large body": lambda: (Server(), Holder("t"), LARGE, ["complete"]),
    "a large reply": lambda: (Server(Reply({**RESULT, "pad": "x" * 300_000})), Holder("t"), READ, ["complete"]),
    "a stream": lambda: (Server(Answered()), Holder("t"), CALL, ["complete"]),
    "a stream without the response": lambda: (Server(Stream()), Holder("t"), CALL, ["cut"]),
    "a stream for a notification": lambda: (Server(Stream()), Holder("t"), NOTIFICATION, ["complete"]),
    "a stream that is cut": lambda: (Server(Stream(is_cut=True)), None, CALL, ["cut"]),
    "an error": lambda: (Server(Reply({"error": {}}, 500)), None, CALL, ["error_reply"]),
    "a 401": lambda: (Server(takes={"new"}), Holder("old", "new"), CALL, ["token_rejected", "complete"]),
    "a 401 and no other token": lambda: (Server(takes=set()), Holder("old", None), CALL, ["token_rejected"]),
    "no token": lambda: (Server(), Holder(None), CALL, ["nothing_written"]),
    "a stale connection": lambda: (Server(stale()), None, READ, ["connection_failed", "complete"]),
    "a stale connection under a tool": lambda: (Server(stale()), None, CALL, ["connection_failed"]),
}


@pytest.mark.parametrize("act", [leave, stop])
@pytest.mark.parametrize("case", CASES)
async def test_a_request_that_is_cancelled_at_any_await_ends_once_and_has_the_outcomes_of_its_attempts(case, act):
    for turns in range(1, MOST_TURNS):
        upstream, holder, body, outcomes = CASES[case]()
        state = state_of(upstream, holder)
        ends, names = await serve(request(state), state, LeavingClient(body), act, turns)
        if names is None:
            assert [attempt.outcome for attempt in ends.began] == outcomes
            return
    raise AssertionError("the request did not end")


@pytest.mark.parametrize("act", ["leave", "drain"])
async def test_an_idle_stream_that_ends_at_any_await_gives_its_place_back(act):
    for turns in range(1, 25):
        stream, ends = Idle(), Ends()
        server = Server(stream)
        state = replace(state_of(server), observers=Observers([ends], lambda _: None))
        client = LeavingClient(b"")
        task = asyncio.create_task(ApiEndpoint(state).serve(request(state, "GET"), client))
        for _ in range(turns):
            await asyncio.sleep(0)
        if act == "leave" and client.leave is not None:
            client.leave()
        else:
            await state.in_flight.begin_drain(state.clock, 0)
        await task
        places = state.in_flight
        assert (places.idle_streams, places.concurrency.by_caller) == (set(), {}), f"{turns} turns"
        assert set(ends.attempts.values()) <= {1}, f"{turns} turns"
        assert list(ends.requests.values()) == [1], f"{turns} turns"
        assert client.data in (b"", b"data: {}\n\n") or client.status == 503, f"{turns} turns"
        assert not (stream.is_open and client.data.startswith(b"data:")), f"{turns} turns"


# --- what a client may be told while it waits ---


class Paused(Stream):
    def __init__(self, first: bytes) -> None:
        super().__init__()
        self._first = first
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        await self.go_on.wait()
        yield b"rest\n\n"


@pytest.mark.parametrize(
    ("first", "keep_alive"),
    [
        (b"data: {}\n\n", b": keep-alive\n\n"),
        (b"data: {}\r\n\r\n", b": keep-alive\n\n"),
        (b"id: 1\ndata: {}\n\n", b": keep-alive\n"),
        (b"data: {}\n", b""),
        (b"data: {", b""),
    ],
)
async def test_a_comment_is_sent_between_two_events_only(first, keep_alive):
    stream = Paused(first)
    state = state_of(Server(stream))
    client = Client(NOTIFICATION)
    task = asyncio.create_task(ApiEndpoint(state).serve(request(state), client))
    clock: Any = state.clock
    await clock.advance(3 * EVERY_S)
    stream.go_on.set()
    await task
    said = client.data.removeprefix(first).removesuffix(b"rest\n\n")
    assert said == keep_alive * 2


async def test_nothing_is_said_before_the_server_has_answered():
    go_on = asyncio.Event()

    class Slow(Server):
        async def send(self, request: Any, times: object = None) -> Any:
            await go_on.wait()
            return await super().send(request, times)

    state = state_of(Slow())
    client = Client(CALL)
    task = asyncio.create_task(ApiEndpoint(state).serve(request(state), client))
    clock: Any = state.clock
    for _ in range(40):
        await clock.advance(1.0)
    assert (client.status, client.data) == (0, b"")
    go_on.set()
    await task
    assert json.loads(client.data) == RESULT


def passed() -> PassedEvents:
    return PassedEvents(StreamSource("mcp/tools", 10_000, lambda _: None))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize(
    ("stream", "has_ids"),
    [
        (b"id: 1\ndata: {}\n\n", True),
        (b"data: {}\r\nid: 1\r\n\r\n", True),
        (b'data: {"text":"valid: a, id: 7"}\n\n', False),
    ],
)
def test_the_id_of_an_event_is_a_line_and_no_text(stream, has_ids, size):
    events = passed()
    for at in range(0, len(stream), size):
        events.feed(stream[at : at + size])
    assert events.has_ids is has_ids


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pieces_pass_unchanged_however_they_are_cut(size):
    events, whole = passed(), b"id: 1\r\ndata: {}\r\n\r\ndata: {\n"
    seen = [events.feed(whole[at : at + size]) for at in range(0, len(whole), size)]
    assert b"".join(seen) == whole
    assert not events.is_between_events
    assert events.feed(b"\n") == b"\n"
    assert events.is_between_events
