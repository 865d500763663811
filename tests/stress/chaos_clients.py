"""The faulty clients of `tests/stress/chaos.py`, on plain sockets."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httptools

from tests.integration.scripted import chunk
from tests.stress.chaos_servers import BOUND_S, REJECTED_PARAMETERS
from tests.stress.ledger import HUGE_BYTES, Expectation, Ledger, Response


class Reader:
    """One client connection, and the response on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.begin()

    def begin(self) -> None:
        self.response = Response(port=self.writer.get_extra_info("sockname")[1])
        self._body = bytearray()
        self._raw = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    async def read(self, size: int = 65_536) -> bool:
        """Read a block; return False if the response is complete or the connection has ended."""
        if self.response.is_complete:
            return False
        try:
            data = await self._reader.read(size)
        except OSError:
            data = b""
        self._raw += data
        self.response.raw = bytes(self._raw) if len(self._raw) < 4096 or not data else self.response.raw
        if not data:
            return False
        self._parser.feed_data(data)
        return not self.response.is_complete

    def settled(self) -> Response:
        self.response.raw, self.response.body = bytes(self._raw), bytes(self._body)
        return self.response

    def on_header(self, name: bytes, value: bytes) -> None:
        self.response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.response.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self.response.status >= 200:
            self.response.is_complete = True
        else:
            self.response.status, self.response.headers = 0, {}


class Clients:
    """Clients that read, disconnect, read slowly, or send incomplete requests."""

    def __init__(self, port: int, key: str, ledger: Ledger, seed: int) -> None:
        self._port, self._key = port, key
        self._ledger = ledger
        self._seed = seed
        self.operations = 0

    async def run(self, number: int, until_s: float) -> None:
        count = 0
        while time.monotonic() < until_s:
            count += 1
            await self.one(f"{number}-{count}")

    async def one(self, name: str, plan: str | None = None) -> None:
        r = Random(f"{self._seed}:client:{name}")
        plans = {
            "read": 50,
            "disconnect": 18,
            "leave_large": 6,
            "slow": 5,
            "send_half": 5,
            "keep_alive": 10,
        }
        drawn = r.choices(list(plans), list(plans.values()))[0]
        plan = plan or drawn
        self._ledger.events[f"client {plan}"] += 1
        self.operations += 1
        try:
            async with asyncio.timeout(BOUND_S):
                await getattr(self, f"_{plan}")(name, r)
        except TimeoutError:
            self._ledger.add_violation(f"{name} ({plan}) hangs: no end within {BOUND_S:g} s")
        except httptools.HttpParserError as error:
            self._ledger.add_violation(f"{name} ({plan}): a response that is not HTTP: {error}")
        except OSError:
            self._ledger.outcomes["reset in writing"] += 1

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Reader]:
        try:
            stream_reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=16_384)
        except OSError as error:
            self._ledger.add_violation(f"the port refuses connections: {error}")
            raise
        try:
            yield Reader(stream_reader, writer)
        finally:
            writer.transport.abort()

    def _request(self, expectation: Expectation, r: Random, body: bytes | None = None) -> bytes:
        path = "/v1/embeddings" if expectation.kind == "vectors" else "/v1/chat/completions"
        fields = {"host": "chaos", "content-type": "application/json"}
        fields["authorization"] = f"Bearer {self._key}"
        if body is None:
            document: dict[str, Any] = {"model": r.choice(("m-1", "m-2", "m-3", "emulated", "failover"))}
            if expectation.kind == "vectors":
                document["input"] = expectation.uid
            else:
                document["messages"] = [{"role": "user", "content": expectation.uid}]
                document |= {"stream": True} if expectation.kind == "stream" else {}
                document |= {
                    name: {"1": 1} if name == "logit_bias" else 1 for name in REJECTED_PARAMETERS if r.random() < 0.2
                }
            body = json.dumps(document).encode()
        if expectation.kind == "vectors":
            body = body.replace(b'"emulated"', b'"e"').replace(b'"failover"', b'"e"')
        if r.random() < 0.2:
            middle = r.randint(0, len(body))
            fields["transfer-encoding"] = "chunked"
            body = b"".join(chunk(part) for part in (body[:middle], body[middle:]) if part) + b"0\r\n\r\n"
        else:
            fields["content-length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body

    def _expect(self, name: str, r: Random) -> Expectation:
        expectation = Expectation(f"u{self._seed}-{name}", r.choice(("plain", "stream", "stream", "vectors")))
        self._ledger.expect(expectation)
        return expectation

    async def _exchange(self, expectation: Expectation, client: Reader, request: bytes, began_s: float) -> Response:
        with contextlib.suppress(OSError):
            client.writer.write(request)
            while await client.read():
                pass
        response = client.settled()
        self._ledger.record(expectation, response, began_s, time.monotonic())
        return response

    async def _read(self, name: str, r: Random) -> None:
        expectation, began_s = self._expect(name, r), time.monotonic()
        async with self._connected() as client:
            await self._exchange(expectation, client, self._request(expectation, r), began_s)

    async def _keep_alive(self, name: str, r: Random) -> None:
        """Send three requests on one connection. Only the kill of its replica may close it between two of them."""
        began_s = time.monotonic()  # before the connection, and later before the pause
        async with self._connected() as client:
            for number in range(3):
                expectation = self._expect(f"{name}.{number}", r)
                client.begin()
                client.writer.write(self._request(expectation, r))
                with contextlib.suppress(OSError):
                    while await client.read():
                        pass
                response = client.settled()
                self._ledger.record(expectation, response, began_s, time.monotonic())
                if not response.is_complete or response.headers.get("connection") == "close":
                    return
                began_s = time.monotonic()
                await asyncio.sleep(r.random())

    async def _disconnect(self, name: str, r: Random) -> None:
        expectation, began_s = self._expect(name + r.choice(("", "L")), r), time.monotonic()
        async with self._connected() as client:
            request = self._request(expectation, r)
            phase = r.choice(("head", "body", "sent", "first", "middle"))
            self._ledger.events[f"left in {phase}"] += 1
            middle = request.index(b"\r\n\r\n")
            until = {"head": r.randint(1, middle), "body": r.randint(middle + 4, len(request) - 1)}
            with contextlib.suppress(OSError):
                client.writer.write(request[: until.get(phase, len(request))])
                await asyncio.sleep(r.random() * 0.5)
                for _ in range({"first": 1, "middle": r.randint(2, 30)}.get(phase, 0)):
                    if not await client.read(2048):
                        break
            self._ledger.record(expectation, client.settled(), began_s, time.monotonic(), is_disconnected=True)
            if r.random() < 0.5:
                client.writer.close()

    async def _leave_large(self, name: str, r: Random) -> None:
        """Send a body and request a reply of HUGE_BYTES. Disconnect in the body, or without reading the reply."""
        expectation = Expectation(f"u{self._seed}-{name}H", r.choice(("plain", "stream")))
        self._ledger.expect(expectation)
        messages = [{"role": "user", "content": text} for text in (expectation.uid, "x" * HUGE_BYTES)]
        document: dict[str, Any] = {"model": r.choice(("m-1", "emulated", "failover")), "messages": messages}
        document |= {"stream": True} if expectation.kind == "stream" else {}
        began_s = time.monotonic()
        async with self._connected() as client:
            request = self._request(expectation, r, body=json.dumps(document).encode())
            phase = r.choice(("large body", "large reply"))
            self._ledger.events[f"left in {phase}"] += 1
            client.writer.write(request[: len(request) // 2] if phase == "large body" else request)
            await asyncio.sleep(0.2 + r.random())
            self._ledger.record(expectation, client.settled(), began_s, time.monotonic(), is_disconnected=True)

    async def _slow(self, name: str, r: Random) -> None:
        expectation, began_s = Expectation(f"u{self._seed}-{name}L", r.choice(("plain", "stream"))), time.monotonic()
        async with self._connected() as client:
            client.writer.write(self._request(expectation, r))
            pause_s = r.choice((0.01, 0.05))
            while await client.read(8192):
                await asyncio.sleep(pause_s)
            self._ledger.record(expectation, client.settled(), began_s, time.monotonic())

    async def _send_half(self, name: str, r: Random) -> None:
        """Send a part of a request. gatepass must end the connection."""
        expectation, began_s = Expectation(f"u{self._seed}-{name}", "refused"), time.monotonic()
        self._ledger.expect(expectation)
        request = self._request(Expectation(expectation.uid, "plain"), r)
        async with self._connected() as client:
            client.writer.write(request[: r.randint(1, len(request) - 8)])
            while await client.read():
                pass
            # a replica that stops may close a connection without a complete request
            self._ledger.record(
                expectation, client.settled(), began_s, time.monotonic(), is_disconnected=not client.response.raw
            )

    async def _burst(self, name: str, r: Random) -> None:
        """Send a request, and disconnect after some milliseconds."""
        expectation, began_s = self._expect(name, r), time.monotonic()
        async with self._connected() as client:
            client.writer.write(self._request(expectation, r))
            await asyncio.sleep(0.005 + r.random() * 0.055)
            self._ledger.record(expectation, client.settled(), began_s, time.monotonic(), is_disconnected=True)

    async def page(self, path: str) -> Response:
        async with self._connected() as client:
            client.writer.write(
                f"GET {path} HTTP/1.1\r\nhost: chaos\r\nconnection: close\r\n"
                f"authorization: Bearer {self._key}\r\n\r\n".encode()
            )
            while await client.read():
                pass
            response = client.settled()
        self._ledger.scan(response.raw, path)
        return response
