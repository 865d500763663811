"""A request under an ASGI server, and a page as an ASGI application: what is sent to either side, and when."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.errors import BodyTooLarge, Overloaded, ReceiveTimeout
from gatepass.proxy.app_state import create_app_state
from gatepass.server.asgi import AsgiRequestCycle, ResponseIncomplete, path_in, serve_page
from gatepass.server.connection import STALL_S
from gatepass.server.cycle import UNSENT_BYTES, HttpRequestCycle
from tests.unit.clock import DrivenClock
from tests.unit.http_client.loop import rest
from tests.unit.server.wire_client import WireClient, asked

LIMIT_BYTES = 1000
OPEN = {"type": "http.request", "body": b"", "more_body": True}
GONE = {"type": "http.disconnect"}


class Server:
    """An ASGI server: delivers `messages`, and records those that it is sent."""

    def __init__(self, *reported: Any, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.clock = DrivenClock()
        config = Config.model_validate({"upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}}})
        self.state = create_app_state(config, self.clock)
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        for message in reported:
            self.messages.put_nowait(message)
        self.asked = 0
        self.sent: list[Any] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.fault: Exception | None = None
        self.raises_when_left = False
        self.client = AsgiRequestCycle({"method": "POST", "headers": fields}, self._receive, self._send, self.state)

    async def _receive(self) -> Any:
        self.asked += 1
        return await self.messages.get()

    async def _send(self, message: Any) -> None:
        if self.fault is not None:
            raise self.fault
        await self.takes.wait()
        self.sent.append(message)
        if self.raises_when_left:
            raise OSError("the client has left")  # ASGI 2.4

    def serve(self, work: Callable[[AsgiRequestCycle], Awaitable[None]]) -> asyncio.Task[None]:
        async def working() -> None:
            await work(self.client)

        return asyncio.create_task(self.client.serve(working()))

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def running(self) -> list[str]:
        return [name for task in asyncio.all_tasks() if (name := task.get_name()) in ("request", "receive", "send")]


def body_of(*pieces: bytes) -> Iterator[Any]:
    for number, piece in enumerate(pieces, 1):
        yield {"type": "http.request", "body": piece, "more_body": number < len(pieces)}


async def started(client: AsgiRequestCycle) -> None:
    client.start(200, [(b"x-a", b"b")])
    await client.write(b"1")


async def test_receive_is_not_called_before_the_body_is_read():
    """The first `receive` makes a server send 100 Continue: a rejected client never receives it."""
    server = Server(OPEN)

    async def work(client: AsgiRequestCycle) -> None:
        await rest()
        client.start(401, [], 0)
        await client.write(b"", last=True)

    await server.serve(work)
    assert (server.asked, server.sent[0]["status"]) == (0, 401)


# the request body


async def test_a_body_that_comes_too_slowly_in_total_is_a_408():
    server, raised = Server(OPEN), list[str]()

    async def work(client: AsgiRequestCycle) -> None:
        with pytest.raises(ReceiveTimeout) as late:
            await client.read_body(LIMIT_BYTES)
        raised.append(late.value.code)

    serving = server.serve(work)
    for _ in range(2):  # 400 bytes are worth 0.4 s
        await rest()
        await server.clock.advance(10.0)
        server.messages.put_nowait({"type": "http.request", "body": bytes(200), "more_body": True})
    await rest()
    await server.clock.advance(0.3)
    assert raised == []
    await server.clock.advance(0.2)
    await serving
    assert raised == ["receive_timeout"]


async def test_a_body_beyond_its_limit_is_refused_and_no_more_of_it_is_read():
    server = Server(*body_of(b"x" * 600, b"x" * 600, b"x" * 600, b"x"))

    async def work(client: AsgiRequestCycle) -> None:
        with pytest.raises(BodyTooLarge):
            await client.read_body(LIMIT_BYTES)
        await rest()

    await server.serve(work)
    assert server.asked == 2
    server = Server(*body_of(b"x" * (LIMIT_BYTES - 1), b"x"))

    async def read(client: AsgiRequestCycle) -> None:
        assert len(await client.read_body(LIMIT_BYTES)) == LIMIT_BYTES

    await server.serve(read)


async def test_a_body_that_may_not_be_held_is_refused_when_a_piece_arrives_and_the_connection_closes():
    server, claimed = Server(*body_of(b"12", b"345", b"6", b"7")), list[int]()

    def claim(size_bytes: int) -> None:
        if size_bytes == 3:
            raise Overloaded("full")
        claimed.append(size_bytes)

    async def work(client: AsgiRequestCycle) -> None:
        with pytest.raises(Overloaded):
            await client.read_body(LIMIT_BYTES, claim)
        client.start(503, [])
        await client.write(b"", last=True)

    await server.serve(work)
    assert (claimed, server.sent[0]["headers"]) == ([2], [(b"connection", b"close")])


async def test_a_body_that_announces_too_much_is_not_read():
    server = Server(OPEN, fields=((b"content-length", b"1001"),))

    async def work(client: AsgiRequestCycle) -> None:
        with pytest.raises(BodyTooLarge):
            await client.read_body(LIMIT_BYTES)

    await server.serve(work)
    assert server.asked == 0


# the response


async def test_waiting_events_are_bounded_while_the_server_sends():
    server = Server()
    server.takes.clear()
    event = b"e" * (UNSENT_BYTES // 4)

    async def work(client: AsgiRequestCycle) -> None:
        await started(client)
        await rest()  # the server takes the first run
        assert [client.try_write(event) for _ in range(6)] == [True] * 4 + [False] * 2
        writing = asyncio.create_task(client.write(b"2", last=True))
        await rest()
        assert not writing.done()
        server.takes.set()
        await writing

    await server.serve(work)
    assert server.body == b"1" + 4 * event + b"2"
    assert [message["more_body"] for message in server.sent[1:]] == [True, True, False]


async def test_one_event_may_be_larger_than_the_bound():
    server = Server()
    event = b"e" * (3 * UNSENT_BYTES)

    async def work(client: AsgiRequestCycle) -> None:
        await started(client)
        await rest()
        assert client.try_write(event)
        assert not client.try_write(b"x")
        await client.write(b"2", last=True)

    await server.serve(work)
    assert server.body == b"1" + event + b"2"


async def test_client_that_reads_nothing_for_too_long_is_treated_as_disconnected():
    server = Server()
    left: list[str] = []
    unread_s = list[Callable[[], float]]()

    async def work(client: AsgiRequestCycle) -> None:
        client.on_disconnect(lambda: left.append("left"))
        await started(client)
        await rest()
        server.takes.clear()
        client.try_write(b"2")
        unread_s.append(client.unread_s)
        while not left:
            await asyncio.sleep(0)
        assert client.try_write(b"swallowed")
        await client.write(b"swallowed", last=True)

    serving = server.serve(work)
    await rest()
    await server.clock.advance(29)
    assert unread_s[0]() == 29
    await server.clock.advance(STALL_S - 28)
    assert unread_s[0]() == 0
    with pytest.raises(ResponseIncomplete):
        await serving
    assert server.body == b"1"


async def test_disconnect_calls_the_callback_and_is_not_an_error():
    server = Server(*body_of(b"x"))
    left: list[str] = []

    async def work(client: AsgiRequestCycle) -> None:
        await client.read_body(LIMIT_BYTES)
        client.on_disconnect(lambda: left.append("left"))
        await started(client)
        await rest()
        server.messages.put_nowait(GONE)
        await rest()
        assert left == ["left"]
        client.on_disconnect(lambda: left.append("again"))
        assert left == ["left", "again"]
        await client.write(b"2")

    await server.serve(work)
    assert server.body == b"1"


@pytest.mark.parametrize("raises", [True, False], ids=["send raises", "send never returns"])
async def test_disconnect_during_a_send_ends_the_request(raises):
    server = Server(*body_of(b"x"))
    left: list[str] = []

    async def work(client: AsgiRequestCycle) -> None:
        await client.read_body(LIMIT_BYTES)
        client.on_disconnect(lambda: left.append("left"))
        server.takes.clear()
        await started(client)
        await rest()
        server.messages.put_nowait(GONE)
        await rest()
        assert left == ["left"]

    server.raises_when_left = True
    serving = server.serve(work)
    while not left:
        await asyncio.sleep(0)
    await rest()
    if raises:
        server.takes.set()
    await serving
    assert server.running == []


@pytest.mark.parametrize(("fault", "raised"), [(OSError("gone"), None), (RuntimeError("bad head"), RuntimeError)])
async def test_error_of_send_ends_the_request_and_a_disconnect_is_not_an_error(fault, raised):
    server = Server()
    server.fault = fault
    left: list[str] = []

    async def work(client: AsgiRequestCycle) -> None:
        client.on_disconnect(lambda: left.append("left"))
        await started(client)
        while not left:
            await asyncio.sleep(0)

    serving = server.serve(work)
    if raised is None:
        await serving
    else:
        with pytest.raises(raised):
            await serving


@pytest.mark.parametrize("times", [1, 5])
async def test_a_server_that_cancels_lets_the_request_clean_up(times):
    """anyio's scopes cancel at every await, which would end a `finally` block at its first one."""
    server = Server(OPEN)
    cleaned: list[str] = []

    async def work(client: AsgiRequestCycle) -> None:
        try:
            await client.read_body(LIMIT_BYTES)
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned.append("up")

    serving = server.serve(work)
    await rest()
    for _ in range(times):
        serving.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await serving
    await rest()
    assert cleaned == ["up"]
    assert server.running == []


@pytest.mark.parametrize(
    ("path", "root_path", "found"),
    [
        ("/llm/v1/models", "/llm", ("/llm", "/v1/models")),
        ("/v1/models", "", ("", "/v1/models")),
        ("/v1/models", "/llm", ("/llm", "/v1/models")),  # hypercorn, whose paths do not include it
        ("/llmv1", "/llm", ("/llm", "/llmv1")),
        ("/llm", "/llm/", ("/llm", "")),
    ],
)
def test_a_path_is_relative_to_the_mount(path, root_path, found):
    assert path_in({"path": path, "root_path": root_path}) == found


async def test_http_2_gets_no_fields_of_a_connection():
    server = Server()
    server.client = AsgiRequestCycle(
        {"method": "GET", "headers": (), "http_version": "2"}, server._receive, server._send, server.state
    )
    server.client.start(426, [(b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade"), (b"x", b"1")], 0)

    async def respond() -> None:
        await server.client.write(b"", last=True)

    await server.client.serve(respond())
    assert server.sent[0]["headers"] == [(b"content-length", b"0"), (b"x", b"1")]


async def test_receive_reports_a_disconnect_and_not_before():
    received: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        del scope, send
        while True:
            received.append((await receive())["type"])
            if received[-1] == "http.disconnect":
                return

    async def serve(cycle: HttpRequestCycle) -> None:
        await serve_page(waits, cycle, 100)

    wire_client = WireClient(serve)
    wire_client.send(asked(b"x"))
    await rest()
    assert received == ["http.request"]
    wire_client.transport.abort()
    await asyncio.sleep(0)
    await rest()
    assert received == ["http.request", "http.disconnect"]
