"""`server.tls`: what clients get over TLS, renewed certificates, client certificates, and handshakes that fail."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trustme

from gatepass.config.load import load
from gatepass.documents import ReloadResult
from gatepass.proxy.app_state import create_app_state
from gatepass.server import connection, reload
from gatepass.server.pages import status_of
from gatepass.server.reload import ConfigSource
from tests.integration.answers import COMPLETION, delta
from tests.integration.gateway import STREAMED, Gateway, gateway, serving
from tests.integration.scripted import Dialogue, Hold, Scripted, Send, begin_stream, chunk, reply
from tests.waiting import until, until_async

CA = trustme.CA()
GOOD = [Send(reply(COMPLETION))]


def renew(folder: Path, *, key: bool = True) -> None:
    pair = CA.issue_cert("127.0.0.1", "localhost")
    pair.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    if key:
        pair.private_key_pem.write_to_path(folder / "tls.key")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    renew(tmp_path)
    return {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}


def client() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def counted(gp: Gateway, code: str) -> float:
    lines = gp.state.metrics.exposition().decode().splitlines()
    found = [line for line in lines if line.startswith("gatepass_errors_total{") and f'code="{code}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


async def idle(gp: Gateway) -> None:
    await until(lambda: not gp.server.server_state.connections)
    assert len(gp.server._context.shares) == 0


@asynccontextmanager
async def raw(gp: Gateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_chat_and_a_stream_arrive_over_tls_and_pages_know_their_scheme(files):
    streamed = [*begin_stream(), Send(chunk(delta(content="x" * 200_000))), Hold()]
    answers: Iterator[Dialogue] = iter([GOOD, streamed])
    async with (
        Scripted(answer=lambda _: next(answers)) as upstream,
        gateway(upstream=upstream.url, server={"tls": files, "drain_timeout_s": 0}, tls=client()) as gp,
    ):
        assert (await gp.ask().answer()).json() == COMPLETION
        async with gp.ask(STREAMED) as ask:
            await ask.head()
            await ask.until(b"x" * 200_000)
        wrong = await gp.ask(path="/v2/chat/completions").answer()
        assert f"https://127.0.0.1:{gp.port}/v1" in wrong.error["message"]
        await idle(gp)


# --- renewed certificates --------------------------------------------------------------------------------------------


@dataclass
class Renewing:
    """A gatepass with `server.tls` that can be reloaded, under a load of requests."""

    served: Gateway
    answers: list[int] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    async def reload(self) -> ReloadResult:
        assert self.served.server.reloader is not None
        return await self.served.server.reloader.reload("command")

    async def load(self) -> None:
        while True:
            try:
                self.answers.append((await self.served.ask().answer()).status)
            except (OSError, EOFError) as error:
                self.failures.append(error)

    @property
    def problems(self) -> list[str]:
        return status_of(self.served.server.endpoint.state).reload_problems

    async def shown(self) -> str:
        """Return the serial number of the certificate that a new connection receives."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.served.port, ssl=self.served.tls)
        found = writer.get_extra_info("peercert")["serialNumber"]
        writer.transport.abort()
        return str(found)


@asynccontextmanager
async def renewing(folder: Path, upstream: Scripted, tls: dict[str, str]) -> AsyncIterator[Renewing]:
    file = folder / "gatepass.json"
    blocks = {"server": {"tls": tls, "drain_timeout_s": 0}, "upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}}
    file.write_text(json.dumps(blocks))
    read = partial(load, str(file), {})
    loaded = read()
    async with serving(create_app_state(loaded.config), ConfigSource(loaded, read), client()) as served:
        yield Renewing(served)


async def test_a_renewed_certificate_serves_new_connections_and_no_request_fails(files, tmp_path):
    async with Scripted(answer=lambda _: GOOD) as upstream, renewing(tmp_path, upstream, files) as gp:
        load = [asyncio.create_task(gp.load()) for _ in range(4)]
        old, seen = gp.served.ask(STREAMED), {await gp.shown()}
        async with old:
            for _ in range(5):
                gp.answers.clear()
                renew(tmp_path)
                assert await gp.reload() == ReloadResult("reloaded", ("server",))
                seen.add(await gp.shown())
                await until(lambda: len(gp.answers) > 8)
            assert (await old.answer()).status == 200
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        assert await gp.reload() == ReloadResult("unchanged")
    assert len(seen) == 6
    assert gp.failures == []
    assert set(gp.answers) == {200}


async def test_a_pair_that_does_not_match_keeps_the_old_one_and_status_says_so(files, tmp_path, caplog, logged_errors):
    async with Scripted(answer=lambda _: GOOD) as upstream, renewing(tmp_path, upstream, files) as gp:
        before = await gp.shown()
        renew(tmp_path, key=False)
        refused = await gp.reload()
        assert refused.outcome == "refused"
        assert gp.problems == list(refused.problems)
        assert "server.tls.key_file" in gp.problems[0]
        assert "cannot be used: KEY_VALUES_MISMATCH" in gp.problems[0]
        assert "reload_refused" in caplog.messages
        assert [one for one in logged_errors if "reload_refused" not in one] == []
        logged_errors.clear()
        assert await gp.shown() == before
        renew(tmp_path)
        assert (await gp.reload()).outcome == "reloaded"
        assert gp.problems == []
        assert await gp.shown() != before


async def test_a_secret_of_kubernetes_that_moves_its_link_is_noticed_by_watch(tmp_path, monkeypatch, logged_errors):
    looks, look = 0, reload._readings

    def counted_look(loaded):
        nonlocal looks
        looks += 1
        return look(loaded)

    monkeypatch.setattr(reload, "WATCH_S", 0.02)
    monkeypatch.setattr(reload, "_readings", counted_look)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        renew(tmp_path / name)
    (tmp_path / "..data").symlink_to("one")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(Path("..data", name))
    tls = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    async with Scripted(answer=lambda _: GOOD) as upstream, renewing(tmp_path, upstream, tls) as gp:
        reloader = gp.served.server.reloader
        assert reloader is not None
        before, watching = await gp.shown(), asyncio.create_task(reloader.watch(gp.served.state.clock))
        await until(lambda: looks > 2)
        (tmp_path / "..new").symlink_to("two")
        (tmp_path / "..new").rename(tmp_path / "..data")

        async def changed() -> bool:
            return await gp.shown() != before

        await until_async(changed)
        watching.cancel()
        # a look that met the link while it moved read the certificate of one side and the key of the other
        logged_errors[:] = [one for one in logged_errors if "reload_refused" not in one]


# --- handshakes that fail --------------------------------------------------------------------------------------------


async def test_plain_http_is_closed_without_a_byte_and_counted(files):
    async with gateway(server={"tls": files, "drain_timeout_s": 0}, upstream="http://127.0.0.1:9") as gp:
        async with raw(gp) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            with suppress(ConnectionError):
                assert not (await reader.read()).startswith(b"HTTP")
        assert counted(gp, "plain_http") == 1
        await idle(gp)


async def test_a_slow_handshake_counts_as_a_connection_without_a_key_and_ends_at_its_deadline(files, monkeypatch):
    monkeypatch.setattr(connection, "RECEIVE_S", 3.0)
    async with gateway(server={"tls": files, "drain_timeout_s": 0}, upstream="http://127.0.0.1:9") as gp:
        hello = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            client().wrap_bio(*hello, server_hostname="127.0.0.1").do_handshake()
        async with raw(gp) as (silent, _), raw(gp) as (reader, writer):
            writer.write(hello[1].read()[:100])
            await until(lambda: len(gp.server._context.shares) == 2)
            assert len(gp.server.server_state.connections) == 2
            with suppress(ConnectionError):
                assert await reader.read() == await silent.read() == b""
        assert counted(gp, "receive_timeout") == 2
        assert counted(gp, "tls_handshake_failed") == 0
        await idle(gp)


async def test_a_client_that_leaves_in_the_handshake_leaves_nothing_and_is_no_error(files):
    async with gateway(server={"tls": files, "drain_timeout_s": 0}, upstream="http://127.0.0.1:9") as gp:
        for reset in (False, True):
            with socket.create_connection(("127.0.0.1", gp.port)) as left:
                left.sendall(b"\x16\x03\x01\x02")
                await until(lambda: len(gp.server._context.shares) == 1)
                if reset:
                    left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await idle(gp)
        assert counted(gp, "tls_handshake_failed") == counted(gp, "receive_timeout") == 0


async def test_a_response_before_the_end_of_a_body_reaches_its_client(files):
    limits = {"body_bytes": 100_000}
    async with gateway(
        server={"tls": files, "drain_timeout_s": 0}, limits=limits, upstream="http://127.0.0.1:9", tls=client()
    ) as gp:
        answer = await gp.ask(b" " * 8_000_000).answer()
        assert answer.error["code"] == "body_too_large"
        await idle(gp)


async def test_a_stop_ends_idle_connections_and_handshakes_at_once(files):
    """A stop that waited for them would hang for an hour, and the test with it."""
    server = {"tls": files, "drain_timeout_s": 3600}
    async with gateway(server=server, upstream="http://127.0.0.1:9", tls=client()) as gp:
        stack = AsyncExitStack()
        await stack.enter_async_context(raw(gp))
        idling = await stack.enter_async_context(gp.ask(None, "/healthz", method="GET"))
        assert (await idling.answer()).status == 200
    await stack.aclose()
