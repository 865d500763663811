"""No end of a request leaves a reference cycle or a byte: a server without a garbage collector stays as small."""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.attacks.conftest import Attack
from tests.integration.answers import DONE, delta
from tests.integration.gateway import CHAT, JSON, Ask
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Hold,
    Received,
    Scripted,
    Send,
    begin_stream,
    chunk,
    head,
    reply,
)
from tests.integration.servers.running import connectable
from tests.serving import free_port
from tests.waiting import until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
TEXT = "x" * (8 * MIB)
ROUNDS = 1
"""After one to warm up: `report` names what a single request leaves."""
SPARE_MIB = {"gatepass serve": 32, "uvicorn": 64}
"""uvicorn's process keeps more freed memory: gatepass does not set the allocator there. A leak of each round would be
500 MiB."""
LEAVES_S = 0.05
"""The time in which the server reads on before a client leaves."""
SHORT_S = 0.3
"""A bound that passes in real time. It is the only one of its upstream, so that no earlier phase uses it up."""
LONG_S = 36_000
"""A bound that no busy machine reaches. A command to the server lets it pass."""


def completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return reply({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices})


def audio(*moves: Send | Fin | Hold) -> Dialogue:
    return [Send(head(200, content_type="audio/mpeg", content_length=str(8 * MIB))), *moves]


WHOLE = completion(TEXT)
HALF = WHOLE[: len(WHOLE) // 2]
EVENT = delta(content="y" * 65_000)
EVENTS = [Send(chunk(EVENT))] * (8 * MIB // len(EVENT))
ENDING = [Send(chunk(delta("stop"))), Send(chunk(DONE)), Send(LAST_CHUNK)]
STREAM: Dialogue = [*begin_stream(), *EVENTS, *ENDING]
HALF_WHOLE: Dialogue = [Send(HALF), Hold()]
LAST = "the last event"
HALF_STREAM: Dialogue = [*begin_stream(), *EVENTS[:64], Send(chunk(delta(content=LAST))), Hold()]
BAD_EVENT: Dialogue = [*begin_stream(), *EVENTS[:64], Send(chunk(b"data: {\n\n")), Hold()]
TOO_LARGE = TEXT * 2 + TEXT[:MIB]
REFUSED = reply({"error": {"message": "no", "code": "x"}}, 400)
UNSUPPORTED_SEED = {
    "message": "Unsupported parameter: 'seed' is not supported with this model.",
    "type": "invalid_request_error",
    "param": "seed",
    "code": "unsupported_parameter",
}
UNSUPPORTED = reply({"error": UNSUPPORTED_SEED}, 400)
INVALID_TOKEN = reply({"error": {"message": "no", "code": "invalid_token"}}, 401)
TRANSCRIPTIONS = "/v1/audio/transcriptions"
FORM = {"content-type": "multipart/form-data; boundary=b"}
FORM_BODY = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--b--\r\n' % TEXT.encode()
)


@dataclass
class Running:
    """A server in its own process, and its upstream, which gives `answer` to each request."""

    port: int
    process: asyncio.subprocess.Process
    upstream: Scripted
    answer: Callable[[Received], Dialogue]
    first_mib: int = 0
    models: int = 0

    def ask(self, model: str = "m", *, stream: bool = False, text: str = TEXT, more: str = "", **how: Any) -> Ask:
        body = f'{{"model":"{model}","messages":[{{"role":"user","content":"{text}"}}]'
        body += f',"stream":{"true" if stream else "false"}{more}}}'
        return Ask(self.port, "POST", CHAT, dict(JSON), body.encode(), **how)

    def post(self, path: str, body: Any, headers: dict[str, str] = JSON) -> Ask:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Ask(self.port, "POST", path, dict(headers), data)

    async def command(self, name: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n".encode())
        answer: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return answer

    async def until_in_flight(self, requests: int) -> None:
        async def are_in_flight() -> bool:
            page = await Ask(self.port, "GET", "/metrics", {"connection": "close"}, b"").answer()
            values = re.findall(rb"^gatepass_requests_in_flight(?:{[^}]*})? (\S+)", page.body, re.MULTILINE)
            return sum(map(float, values)) == requests

        await until_async(are_in_flight)

    async def idle(self) -> None:
        await self.until_in_flight(0)
        self.upstream.received.clear()

    async def report(self) -> tuple[int, dict[str, int]]:
        answer = await self.command("report")
        return answer["mib"], answer["left"]


async def read(server: Running, dialogue: Dialogue, status: int, *, code: str = "", **how: Any) -> None:
    """Read the whole response."""
    server.answer = lambda _: dialogue
    answer = await server.ask(**how).answer()
    assert answer.status == status, answer.body[:300]
    assert not code or answer.error["code"] == code, answer.body[-300:]


async def leave(server: Running, dialogue: Dialogue, *, sent_bytes: int = 0, pieces: int = 0, **how: Any) -> None:
    """Leave when the upstream has sent so many bytes, and the client has read so many pieces."""
    server.answer = lambda _: dialogue
    before_bytes = server.upstream.sent_bytes
    async with server.ask(**how) as ask:
        await server.upstream.requested()
        await server.upstream.until(lambda: server.upstream.sent_bytes - before_bytes >= sent_bytes)
        if pieces:
            await ask.head()
            for _ in range(pieces):
                await ask.piece()
        await asyncio.sleep(LEAVES_S)


async def leave_before_sending(server: Running, model: str, in_flight: int = 1) -> None:
    """Leave while the request waits and nothing of it was sent."""
    async with server.ask(model) as ask:
        await written(ask)
        await server.until_in_flight(in_flight)
        await asyncio.sleep(2 * LEAVES_S)


async def written(ask: Ask) -> None:
    assert ask._writer is not None
    await ask._writer.drain()


def half(ask: Ask) -> Ask:
    """Send the half of the body."""
    ask.headers["content-length"] = str(len(ask.data))
    ask.data = ask.data[: len(ask.data) // 2]
    return ask


async def leave_in_body(server: Running, make: Callable[[Running], Ask]) -> None:
    server.answer = lambda _: [Hold()]
    async with half(make(server)) as ask:
        await written(ask)
        await asyncio.sleep(LEAVES_S)


async def wait_for_connection(server: Running) -> None:
    server.answer = lambda _: [Hold()]
    async with server.ask("one", text="a"):
        await server.upstream.requested()
        await leave_before_sending(server, "one", 2)


async def end(server: Running, command: str, code: str, *, after: str = "", **how: Any) -> None:
    """Let the server end a stream that has begun, at a command, and after an event with the text `after`."""
    server.answer = lambda _: HALF_STREAM
    async with server.ask(stream=True, **how) as ask:
        await ask.head()
        await ask.until(after.encode())
        await server.command(command)
        assert (await ask.answer()).error["code"] == code


async def stop(server: Running) -> None:
    server.answer = lambda _: HALF_STREAM
    async with server.ask(stream=True) as ask:
        await ask.head()
        await server.command("stop")
        assert not (await ask.answer()).whole


async def learn(server: Running) -> None:
    """Use a new model, of which nothing is learned."""
    server.answer = lambda request: [Send(UNSUPPORTED if b'"seed"' in request.body[-100:] else WHOLE)]
    server.models += 1
    answer = await server.ask(f"any-{server.models}", more=',"seed":1').answer()
    assert answer.status == 200, answer.body[:300]


async def renew(server: Running) -> None:
    server.answer = lambda _: [Send(INVALID_TOKEN if len(server.upstream.received) == 1 else WHOLE)]
    answer = await server.ask("minted").answer()
    assert answer.status in (200, 401), answer.body[:300]  # 401: no more renewals in this minute


async def upload(server: Running) -> None:
    server.answer = lambda _: [Send(reply({"text": "hi"}))]
    for path in (TRANSCRIPTIONS, "/v1/files"):
        assert (await server.post(path, FORM_BODY, FORM).answer()).status == 200


async def embed(server: Running, first: Dialogue, others: Dialogue, status: int | None) -> None:
    """Send one call in several requests; leave before a reply if the status is None."""
    server.answer = lambda _: first if len(server.upstream.received) == 1 else others
    async with server.post("/v1/embeddings", {"model": "batched", "input": [TEXT[:MIB]] * 8}) as ask:
        await server.upstream.requested(2)
        if status is not None:
            answer = await ask.answer()
            assert answer.status == status, answer.body[:300]


VECTOR: Dialogue = [
    Send(
        reply({"object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.5] * 99}]})
    )
]


async def speak(server: Running, dialogue: Dialogue, *, whole: bool | None) -> None:
    """Read audio; leave in the middle if `whole` is None."""
    server.answer = lambda _: dialogue
    async with server.post("/v1/audio/speech", {"model": "m", "input": "x" * 100_000}) as ask:
        await ask.head()
        if whole is None:
            await asyncio.sleep(LEAVES_S)
        else:
            assert (await ask.answer()).whole is whole


async def reject(server: Running, more: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"x":%b}' % (TEXT.encode(), more)
    assert (await server.post(CHAT, body).answer()).status == 400


@asynccontextmanager
async def short(server: Running, bound: str) -> AsyncIterator[None]:
    """Shorten a time for which gatepass waits for a client, for the ends of which it is the subject."""
    await server.command(f"short {bound}")
    try:
        yield
    finally:
        await server.command(f"usual {bound}")


async def send_slowly(server: Running) -> None:
    async with short(server, "RECEIVE_S"):
        assert (await half(server.ask()).answer()).status == 408


async def stall(server: Running, dialogue: Dialogue, **how: Any) -> None:
    """Read nothing until the server closes the connection."""
    server.answer = lambda _: dialogue
    async with short(server, "STALL_S"), server.ask(receive_bytes=65_536, **how) as ask:
        assert ask._writer is not None
        # the transport can pause, but its type, WriteTransport, cannot
        ask._writer.transport.pause_reading()  # type: ignore[attr-defined]
        await server.upstream.requested()
        await server.idle()


async def fill(server: Running, stack: AsyncExitStack) -> None:
    """Hold as much as `limits.held_bytes` allows, until one more request is refused."""
    for number in range(1, 9):
        ask = await stack.enter_async_context(server.ask())
        refused, held = asyncio.create_task(ask.head()), asyncio.create_task(server.upstream.requested(number))
        await asyncio.wait((refused, held), return_when=asyncio.FIRST_COMPLETED)
        held.cancel()
        if refused.done():
            assert refused.result() == 503
            return
        refused.cancel()
    raise AssertionError("no request was refused")


async def refuse(server: Running) -> None:
    server.answer = lambda _: [Hold()]
    async with AsyncExitStack() as stack:
        await fill(server, stack)


async def wait_for_room(server: Running) -> None:
    server.answer = lambda request: [Hold()] if len(request.body) > MIB else [Send(WHOLE)]
    async with AsyncExitStack() as stack:
        await fill(server, stack)
        before = len(server.upstream.received)
        await stack.enter_async_context(server.ask(text="a"))
        await server.upstream.requested(before + 1)
        await asyncio.sleep(LEAVES_S)


async def list_models(server: Running) -> None:
    server.answer = lambda _: [Send(REFUSED)]
    await Ask(server.port, "GET", "/v1/models", {}, b"").answer()


End = Callable[[Running], Awaitable[None]]
ENDS: dict[str, End] = {
    "complete": partial(read, dialogue=[Send(WHOLE)], status=200),
    "complete stream": partial(read, dialogue=STREAM, status=200, stream=True),
    "too large to aggregate": partial(read, dialogue=[*begin_stream(), *EVENTS, *EVENTS, *ENDING], status=502),
    "synthesized stream": partial(read, dialogue=[Send(WHOLE)], status=200, stream=True),
    "upload": upload,
    "audio": partial(speak, dialogue=audio(Send(TEXT.encode())), whole=True),
    "embeddings in parts": partial(embed, first=VECTOR, others=VECTOR, status=200),
    "model list": list_models,
    # errors
    "large error": partial(read, dialogue=[Send(reply({"error": {"message": TEXT}}, 500))], status=500),
    "error in a stream": partial(read, dialogue=BAD_EVENT, status=200, stream=True),
    "reply that is not JSON": partial(read, dialogue=[Send(reply(b"{" + TEXT.encode()))], status=502),
    "reply cut off": partial(read, dialogue=[Send(HALF), Fin()], status=502),
    "reply too large": partial(read, dialogue=[Send(completion(TOO_LARGE)), Hold()], status=502),
    "stream cut off": partial(read, dialogue=[*begin_stream(), *EVENTS[:64], Fin()], status=200, stream=True),
    "audio cut off": partial(speak, dialogue=audio(Send(TEXT.encode()[:MIB]), Fin()), whole=False),
    "embeddings with a failed part": partial(embed, first=[Send(REFUSED)], others=[Hold()], status=400),
    "no token": partial(read, dialogue=[], status=503, model="no-token"),
    "fault of gatepass": partial(read, dialogue=[Send(WHOLE)], status=500, model="fault"),
    # tries
    "failover": partial(read, dialogue=[Send(WHOLE)], status=200, model="failover"),
    "learned rule": learn,
    "renewed token": renew,
    # refused
    "body too large": partial(read, dialogue=[], status=413, text=TOO_LARGE),
    "body that is not JSON": partial(reject, more=b'["'),
    "more than the budget": refuse,
    # late
    "total timeout in the stream": partial(end, command="total", code="upstream_timeout_total", model="total"),
    "connect timeout": partial(read, dialogue=[], status=504, code="upstream_timeout_connect", model="silent"),
    "first byte timeout": partial(
        read, dialogue=[Hold()], status=504, code="upstream_timeout_first_byte", model="first-byte"
    ),
    "idle timeout in the stream": partial(end, command="idle", code="upstream_timeout_idle", after=LAST, model="idle"),
    "slow body": send_slowly,
    "reply that is not read": partial(stall, dialogue=[Send(WHOLE)]),
    "stream that is not read": partial(stall, dialogue=STREAM, stream=True),
    # the client is gone
    "gone in its body": partial(leave_in_body, make=Running.ask),
    "gone in its upload": partial(leave_in_body, make=lambda one: one.post("/v1/files", FORM_BODY, FORM)),
    "gone before a token": partial(leave_before_sending, model="token"),
    "gone while gatepass connects": partial(leave_before_sending, model="silent-long"),
    "gone before a connection": wait_for_connection,
    "gone while the upstream reads nothing": partial(leave_before_sending, model="deaf"),
    "gone before the first event": partial(leave, dialogue=[Hold()], stream=True),
    "gone in the reply": partial(leave, dialogue=HALF_WHOLE, sent_bytes=4 * MIB),
    "gone while the reply waits for room": wait_for_room,
    "gone in an aggregated reply": partial(leave, dialogue=HALF_STREAM, sent_bytes=2 * MIB),
    "gone while the reply is written": partial(leave, dialogue=[Send(WHOLE)], sent_bytes=8 * MIB),
    "gone in the stream": partial(leave, dialogue=HALF_STREAM, stream=True, pieces=40),
    "gone in a stream that is not read": partial(leave, dialogue=STREAM, stream=True, sent_bytes=MIB),
    "gone in audio": partial(speak, dialogue=audio(Send(TEXT.encode())), whole=None),
    "gone before embeddings": partial(embed, first=[Hold()], others=[Hold()], status=None),
    # gatepass stops
    "drained in the stream": partial(end, command="drain", code="draining"),
    "stopped": stop,
}
UNDER_UVICORN = (
    *("complete stream", "slow body", "body too large", "audio cut off", "fault of gatepass", "reply that is not read"),
    *("gone in its body", "gone in its upload", "gone before the first event", "gone in the stream"),
    *("gone while the reply is written", "drained in the stream", "stopped"),
)


@asynccontextmanager
async def deaf_server() -> AsyncIterator[str]:
    """A server that accepts connections and reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """A server whose queue of connections is full: one more stays unanswered."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def minted(_: Received) -> Dialogue:
    return [Send(reply({"access_token": f"{os.urandom(8).hex()}-token", "expires_in": 3000}))]


@asynccontextmanager
async def running(name: str, folder: Path) -> AsyncIterator[Running]:
    servers: list[Running] = []
    async with (
        Scripted(answer=lambda request: servers[0].answer(request) if servers else [Hold()]) as upstream,
        Scripted([Hold()]) as hanging,
        Scripted([Send(reply({}, 500))]) as broken,
        Scripted(answer=minted) as minting,
        deaf_server() as deaf_url,
        silent_server() as silent_url,
    ):
        port = free_port()
        chat, dead = {"base_url": f"{upstream.url}/v1"}, {"base_url": f"http://127.0.0.1:{free_port()}/v1"}
        oauth2 = {"type": "oauth2", "client_id": "i", "client_secret": "${SECRET}", "timeout_s": LONG_S}
        upstreams = {
            "m": chat,
            "total": {**chat, "timeouts": {"total_s": LONG_S}},
            "idle": {**chat, "timeouts": {"idle_s": LONG_S}},
            "first-byte": {**chat, "timeouts": {"first_byte_s": SHORT_S}},
            "one": {**chat, "max_connections": 1},
            "token": {**chat, "credential": "hanging"},
            "no-token": {**chat, "credential": "broken"},
            "minted": {**chat, "credential": "minted"},
            "silent": {"base_url": silent_url, "timeouts": {"connect_s": SHORT_S}},
            "silent-long": {"base_url": silent_url},
            "deaf": {"base_url": deaf_url},
            "dead": dead,
        }
        config = {
            "server": {"host": "127.0.0.1", "port": port, "drain_timeout_s": 0},
            "limits": {
                "body_bytes": 16 * MIB,
                "reply_bytes": 16 * MIB,
                "held_bytes": 33 * MIB,
            },
            "credentials": {
                issuer: {**oauth2, "token_url": url}
                for issuer, url in (("hanging", hanging.url), ("broken", broken.url), ("minted", minting.url))
            },
            "upstreams": upstreams,
            "operations": {"files": {"upstream": "m"}},
            "models": {
                **{upstream: {"upstream": upstream} for upstream in upstreams},
                **{alias: {"upstream": "m"} for alias in ("fault", "any-*")},
                "batched": {"upstream": "m", "rules": {"split": 1}},
                "failover": {"targets": [{"upstream": "dead"}, {"upstream": "m"}]},
            },
        }
        path = folder / "gatepass.json"
        path.write_text(json.dumps(config))
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.attacks.uncollected", name, str(path), str(port)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "SECRET": "a-long-secret-of-a-client"},
            )
        try:
            await connectable(port)
            servers.append(Running(port, process, upstream, lambda _: [Hold()]))
            yield servers[0]
        finally:
            process.kill()
            await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gatepass_serve(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running("gatepass serve", tmp_path_factory.mktemp("gatepass")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def under_uvicorn(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running("uvicorn", tmp_path_factory.mktemp("uvicorn")) as server:
        yield server


async def leaves_nothing(attack: Attack, server: Running, end: End, spare_mib: int) -> None:
    """Play the end once to warm up, then ROUNDS times."""
    for number in range(1 + ROUNDS):
        if number == 1:
            before_mib = (await server.report())[0]
            server.first_mib = server.first_mib or before_mib
        await end(server)
        await server.idle()
    mib, left = await server.report()
    attack.check(not left, left)
    attack.check(mib <= server.first_mib + spare_mib, f"{mib} MiB after {server.first_mib} MiB")


@pytest.mark.attack("finished requests: gatepass serve")
@pytest.mark.parametrize("end", ENDS)
async def test_no_end_leaves_anything(attack: Attack, gatepass_serve: Running, end: str) -> None:
    await leaves_nothing(attack, gatepass_serve, ENDS[end], SPARE_MIB["gatepass serve"])


@pytest.mark.attack("finished requests: uvicorn")
@pytest.mark.parametrize("end", UNDER_UVICORN)
async def test_no_end_leaves_anything_under_uvicorn(attack: Attack, under_uvicorn: Running, end: str) -> None:
    await leaves_nothing(attack, under_uvicorn, ENDS[end], SPARE_MIB["uvicorn"])
