"""Faults of clients, upstream and issuer around `gatepass serve --workers 2`: `make chaos`, ten minutes.

`CHAOS="--seconds 60 --seed 7"` sets the duration and the seed. The seed and a number decide what each client, each
reply of the upstream and each reply of the issuer does. A seed repeats these decisions, but not their times. The ledger
(`tests/stress/ledger.py`) compares what the three received. The program prints a report and exits 1 after a violation.

A long duration alone does not count as a violation. An operation hangs if it exceeds BOUND_S, ten times the sum
of the configured limits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httptools

from tests.integration import test_faults
from tests.integration.answers import DONE, delta
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Hold,
    Move,
    Pause,
    Received,
    Rst,
    Scripted,
    Send,
    begin_stream,
    chunk,
    head,
    reply,
    stream,
)
from tests.stress.ledger import Expectation, Ledger, Receipt, Response, text_of, vector_of
from tests.waiting import until

MARK = "planted7f3acd91e2"
"""Part of every secret: client secrets, tokens, API keys."""
CLIENTS = 24
BOUND_S = 180.0
HEALTH_BOUND_S = 60.0
QUIET_BOUND_S = 120.0
STORM = 150
UPSTREAM_FAULTS = 0.45
ISSUER_FAULTS = 0.3
DISTURBED_SHARE = 0.65
"""The share of the time with kills and reloads. In the last part the workers must return to their idle memory."""
SPARE_DESCRIPTORS = 15
SPARE_MIB = 64
REJECTED_PARAMETERS = ("seed", "top_p", "frequency_penalty", "presence_penalty", "logit_bias")
_EVENT_FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "crlf": lambda one: one.replace(b"\n", b"\r\n"),
    "comments": lambda one: b": ping\n\n" + one,
    "ids": lambda one: b"id: 1\n" + one + b": ping\n\n",
}
"""Valid formats of an event (S9)."""
CONFIG_TIMEOUTS = {"connect_s": 5, "first_byte_s": 3, "idle_s": 3, "total_s": 15}


class Issuer:
    """Token endpoints of two credentials, with the faults T1 to T20."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self._seed = seed
        self._ledger = ledger
        self._calls: dict[str, int] = {}
        self._last: dict[str, tuple[str, float]] = {}
        self.secret = ""
        self.outage_until_s = 0.0
        self.decoy_url = ""
        self.is_calm = False

    def answer(self, request: Received) -> Dialogue:
        name = request.target.split("/")[1]
        number = self._calls[name] = self._calls.get(name, 0) + 1
        r = Random(f"{self._seed}:issuer:{name}:{number}")
        is_outage = time.monotonic() < self.outage_until_s
        is_faulty = r.random() < ISSUER_FAULTS or is_outage
        if is_faulty and not self.is_calm:
            kind = r.choice(sorted(self._faults(r)))
            self._ledger.faults[f"issuer {kind}"] += 1
            return self._faults(r)[kind]
        if self.secret not in request.body.decode() + request.target:
            self._ledger.faults["issuer old-secret"] += 1
            return [Send(reply({"error": "invalid_client", "error_description": f"not {self.secret}"}, 401))]
        return self._minted(name, number, r)

    def _minted(self, name: str, number: int, r: Random) -> Dialogue:
        now_s = time.monotonic()
        last = self._last.get(name)
        kind = (
            "plain"
            if self.is_calm
            else r.choice(
                (
                    "plain",
                    "plain",
                    "plain",
                    "text",
                    "float",
                    "no-life",
                    "short",
                    "same",
                    "skewed",
                    "over",
                    "slow",
                    "pieces",
                )
            )
        )
        token, life_s = f"{MARK}.{name}.{number}", float(r.randint(8, 25))
        if kind == "same" and last is not None and last[1] > now_s + 1:
            token, life_s = last[0], last[1] - now_s
        elif kind == "short":
            life_s = float(r.randint(1, 3))
        elif kind == "over":
            life_s = 0.0
        life: Any = {"text": str(int(life_s)), "no-life": None}.get(kind, life_s if kind == "float" else int(life_s))
        document = {"access_token": token, "token_type": "Bearer"} | ({} if life is None else {"expires_in": life})
        end_s = None if life is None else now_s + float(life)
        self._ledger.add_token(token, end_s)
        self._last[name] = token, end_s or now_s
        self._ledger.faults[f"token {kind}"] += 1
        data = reply(document, 200, date="Mon, 01 Jan 2035 00:00:00 GMT") if kind == "skewed" else reply(document)
        before: list[Move] = [Pause(1.0)] if kind == "slow" else []
        return [*before, Send(data, piece_bytes=7 if kind == "pieces" else None)]

    def _faults(self, r: Random) -> dict[str, Dialogue]:
        echoed = f"client_secret={self.secret}&amp; {self.secret.encode().hex()} {self.secret}"
        bad = reply({"error": "server_error", "error_description": echoed}, 500)
        return {
            "fin": [Fin()],
            "rst": [Rst()],
            "hang": [Hold()],
            "dribble": [Send(bad, piece_bytes=1, pause_s=0.2)],
            "500": [Send(bad)],
            "503": [Send(reply(echoed.encode(), 503, content_type="text/plain"))],
            "429": [Send(reply({"error": "slow_down"}, 429, retry_after=str(r.randint(1, 2))))],
            "html": [Send(reply(f"<html><title>Login</title>{echoed}</html>".encode(), content_type="text/html"))],
            "empty": [Send(reply(b""))],
            "garbage": [Send(reply(r.randbytes(300)))],
            "no-http": [Send(b"-ERR unknown command\r\n\r\n"), Fin()],
            "null": [Send(reply({"access_token": None, "expires_in": 60}))],
            "line-break": [Send(reply({"access_token": "abc\r\nx-evil: 1", "expires_in": 60}))],
            "no-token": [Send(reply({"status": "ok"}))],
            "cut": [Send(bad[:-9]), r.choice((Fin(), Rst()))],
            "redirect": [Send(reply(b"", 307, location=f"{self.decoy_url}/token"))],
            "huge": [
                Send(head(200, content_type="application/json", transfer_encoding="chunked")),
                *[Send(chunk(b" " * 65_536))] * 64,
                Hold(),
            ],
        }


class Upstream:
    """Replies with the text of `text_of`, or with a fault of S1 to S13."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self._seed = seed
        self._ledger = ledger
        self._attempts: dict[str, int] = {}
        self._revoked: set[str] = set()
        self.is_calm = False
        self.tokens: set[str] = set()

    def revoke(self) -> None:
        """Reject all tokens received so far with 401."""
        self._revoked |= self.tokens

    def answer(self, request: Received) -> Dialogue:
        now_s = time.monotonic()
        body = request.json()
        uid = str(body["input"] if "input" in body else body["messages"][0]["content"])
        attempt = self._attempts[uid] = self._attempts.get(uid, 0) + 1
        r = Random(f"{self._seed}:upstream:{uid}:{attempt}")
        token = (request.header("authorization") or "").removeprefix("Bearer ")
        route = request.target.split("/")[1]
        self.tokens.add(token)
        is_accepted = token not in self._revoked and self._ledger.is_valid(token, now_s)
        is_other_credential = token.split(".")[1:2] != ["embed" if route == "embed" else "chat"]
        if is_other_credential:
            self._ledger.add_violation(f"{uid}: a token of another credential")
        if not is_accepted:
            name, dialogue, may_repeat = "401", self._unauthorized(token), True
        elif self.is_calm or r.random() > UPSTREAM_FAULTS:
            name, dialogue, may_repeat = self._good(uid, body, r)
        else:
            name, dialogue, may_repeat = self._fault(uid, body, token, r)
        is_stale = route != "once" and isinstance(dialogue[0], Fin | Rst)
        self._ledger.faults[f"upstream {name}"] += 1
        self._ledger.receive(Receipt(uid, token, name, may_repeat=may_repeat, is_stale=is_stale), now_s)
        return dialogue

    @staticmethod
    def _unauthorized(token: str) -> Dialogue:
        return [Send(reply({"error": {"message": f"Invalid token {token}", "code": "invalid_token"}}, 401))]

    def _good(self, uid: str, body: dict[str, Any], r: Random) -> tuple[str, Dialogue, bool]:
        if "input" in body:
            data = [{"object": "embedding", "index": 0, "embedding": vector_of(uid)}]
            return "good vectors", [Send(reply({"object": "list", "model": "e", "data": data}))], False
        as_stream = bool(body.get("stream"))
        if not self.is_calm and r.random() < 0.1:
            as_stream = not as_stream  # a stream that was not requested, or a whole reply to a stream request
        return self._good_stream(uid, r) if as_stream else self._good_reply(uid, r)

    @staticmethod
    def _good_reply(uid: str, r: Random) -> tuple[str, Dialogue, bool]:
        kind, data = r.choice(("whole", "gzip", "pieces", "chunked", "close")), json.dumps(completion(uid)).encode()
        if kind == "gzip":
            return "good gzip", [Send(reply(gzip.compress(data), content_encoding="gzip"))], False
        if kind == "chunked":
            named = {"content_type": "application/json", "transfer_encoding": "chunked"}
            return "good chunked", [Send(head(200, **named) + chunk(data) + LAST_CHUNK)], False
        end: Dialogue = [Fin()] if kind == "close" else []
        return f"good {kind}", [Send(reply(data), 61 if kind == "pieces" and len(data) < 9000 else None), *end], False

    @staticmethod
    def _good_stream(uid: str, r: Random) -> tuple[str, Dialogue, bool]:
        kind = r.choice(("events", "paced", "pieces", "one", "no-done", "tail", "hints", "fin", *_EVENT_FORMATS))
        events = [_EVENT_FORMATS[kind](one) if kind in _EVENT_FORMATS else one for one in [*events_of(uid, r), DONE]]
        if kind == "no-done":
            events.pop()
        elif kind == "one":
            events = [b"".join(events)]
        if kind in ("paced", "tail"):
            pause_s = 0.002 if len(events) > 60 else 0.02
            moves: list[Move] = [*begin_stream()]
            for one in events:
                moves += [Send(chunk(one)), Pause(pause_s)]
            return f"good {kind}", [*moves, Hold() if kind == "tail" else Send(LAST_CHUNK)], False
        data = (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" if kind == "hints" else b"") + stream(*events)
        piece = 13 if kind == "pieces" and len(data) < 9000 else None
        return f"good {kind}", [Send(data, piece), *([Fin()] if kind == "fin" else [])], False

    def _fault(self, uid: str, body: dict[str, Any], token: str, r: Random) -> tuple[str, Dialogue, bool]:
        is_stream = bool(body.get("stream"))
        kind = r.choice(
            ("table", "table", "cut", "cut", "stall", "401", "403", "429", "reject parameter", "echo", "large")
        )
        if kind == "401":
            return "401", self._unauthorized(token), True
        if kind == "403":
            return "403", [Send(reply({"error": {"message": f"no {token}", "code": "no_access"}}, 403))], False
        if kind == "429":
            return "429", [Send(reply({"error": {"message": "slow", "code": "slow"}}, 429, retry_after="1"))], False
        if kind == "echo":
            message = f"failed: Authorization: Bearer {token} {token.encode().hex()}"
            return "echo", [Send(reply(message.encode(), 500, content_type="text/plain", x_echo=token))], False
        named = [name for name in REJECTED_PARAMETERS if name in body]
        if kind == "reject parameter" and named:
            message = f"Unsupported parameter: '{named[0]}' is not supported with this model."
            error = {
                "message": message,
                "type": "invalid_request_error",
                "param": named[0],
                "code": "unsupported_parameter",
            }
            return "reject parameter", [Send(reply({"error": error}, 400))], True
        if "input" in body:
            data = reply({"object": "list", "model": "e", "data": [{"index": 0, "embedding": vector_of(uid)}]})
            return "cut vectors", [Send(data[: r.randint(1, len(data) - 1)]), r.choice((Fin(), Rst(), Hold()))], False
        if kind == "large":
            return "large", self._large(is_stream), False
        if kind in ("cut", "stall"):
            data = stream(*events_of(uid, r), DONE) if is_stream else reply(completion(uid))
            data = data[: r.randint(1, len(data) - 1)]
            return kind, [Send(data), Hold() if kind == "stall" else r.choice((Fin(), Rst()))], False
        tables = [test_faults.EITHER, test_faults.STREAM if is_stream else test_faults.PLAIN]
        faults = {name: fault for table in tables for name, fault in table.items()}
        name = r.choice([name for name in sorted(faults) if not name.startswith("events-unasked")])
        return name, faults[name].does, "page" in name

    @staticmethod
    def _large(is_stream: bool) -> Dialogue:
        """Return a reply above the configured limits."""
        if is_stream:
            return [*begin_stream(), *[Send(chunk(b"data: " + b"x" * 65_536))] * 32, Hold()]
        named = {"content_type": "application/json", "transfer_encoding": "chunked"}
        return [Send(head(200, **named)), *[Send(chunk(b" " * 65_536))] * 64, Hold()]


def completion(uid: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text_of(uid)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}


def events_of(uid: str, r: Random) -> list[bytes]:
    text = text_of(uid)
    step = r.randint(2, 40) if len(text) < 9000 else 2000
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    return [delta(role="assistant", content=""), *(delta(content=piece) for piece in pieces), delta("stop")]


@dataclass
class FakeServers:
    """The servers in a separate thread, and the state that they share with the clients."""

    seed: int
    ledger: Ledger
    issuer: Issuer
    upstream: Upstream
    by_name: dict[str, Scripted] = field(default_factory=dict)

    @contextmanager
    def serving(self) -> Iterator[None]:
        loop, ready = asyncio.new_event_loop(), threading.Event()
        over = asyncio.Event()

        async def serve() -> None:
            async with (
                Scripted(answer=self.issuer.answer) as issuer,
                Scripted(answer=self.upstream.answer) as upstream,
                Scripted(answer=self._record_redirect) as decoy,
            ):
                self.by_name = {"issuer": issuer, "upstream": upstream}
                self.issuer.decoy_url = decoy.url
                ready.set()
                while not over.is_set():
                    began_s = time.monotonic()
                    await asyncio.sleep(0.25)
                    self.ledger.add_delay(began_s, time.monotonic() - began_s - 0.25)

        def run() -> None:
            try:
                loop.run_until_complete(serve())
            finally:
                ready.set()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            ready.wait()
            try:
                yield
            finally:
                with contextlib.suppress(RuntimeError):  # the server failed and closed its loop
                    loop.call_soon_threadsafe(over.set)
                if (fault := running.exception(BOUND_S)) is not None:
                    self.ledger.add_violation(f"a server of the test failed: {fault!r}")
            loop.close()

    def _record_redirect(self, request: Received) -> Dialogue:
        self.ledger.add_violation(f"a redirect was followed: {request.target}")
        return [Fin()]


class Gatepass:
    """The files and the processes of `gatepass serve --workers 2`."""

    def __init__(self, folder: Path, servers: FakeServers, seed: int) -> None:
        self._servers = servers
        self._folder = folder
        self._generation = 0
        self._secrets = 0
        self.key = f"sk-{MARK}-{seed}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        self.log = folder / "log"
        self.rotate()
        self.configure()

    def rotate(self) -> None:
        self._secrets += 1
        secret = f"{MARK}-secret-{self._secrets}"
        self._write("secret", secret)
        self._servers.issuer.secret = secret

    def configure(self) -> None:
        """Write the configuration with a new token URL."""
        self._generation += 1
        issuer, upstream = (self._servers.by_name[name].url for name in ("issuer", "upstream"))
        credentials = {
            name: {
                "type": "oauth2",
                "token_url": f"{issuer}/{name}/{self._generation}",
                "client_id": "chaos",
                "client_auth": "form",
                "client_secret": f"${{file:{self._folder / 'secret'}}}",
                "timeout_s": 3,
            }
            for name in ("chat", "embed")
        }
        upstreams: dict[str, dict[str, Any]] = {
            name: {"base_url": f"{upstream}/{name}/v1", "credential": name, "timeouts": CONFIG_TIMEOUTS}
            for name in ("chat", "embed")
        }
        upstreams["once"] = {**upstreams["chat"], "base_url": f"{upstream}/once/v1", "repeat_stale": False}
        dead = f"http://127.0.0.1:{self._closed.getsockname()[1]}/v1"
        upstreams["dead"] = {"base_url": dead, "timeouts": CONFIG_TIMEOUTS}  # `total_s` of the first target bounds all
        configuration = {
            "server": {"host": "127.0.0.1", "port": self.port, "drain_timeout_s": 3},
            "limits": {"receive_s": 4, "reply_bytes": 1 << 21, "event_bytes": 1 << 20, "body_bytes": 1 << 20},
            "credentials": credentials,
            "upstreams": upstreams,
            "operations": {"embeddings": {"upstream": "embed"}},
            "models": {
                "m-3": {"upstream": "once"},
                "emulated": {"upstream": "chat", "stream": "emulate"},
                "failover": {"targets": [{"upstream": "dead"}, {"upstream": "chat"}]},
                "*": {"upstream": "chat"},
            },
            "access": {"keys": [{"name": "chaos", "key": "${CHAOS_KEY}", "role": "admin"}]},
        }
        self._write("gatepass.json", json.dumps(configuration))

    def _write(self, name: str, text: str) -> None:
        new = self._folder / f"{name}.new"
        new.touch(0o600)
        new.write_text(text)
        new.replace(self._folder / name)

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [sys.executable, "-m", "gatepass", "serve", "--config", str(self._folder / "gatepass.json")]
        environment = {**os.environ, "CHAOS_KEY": self.key}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([*command, "--workers", "2"], stdout=log, stderr=log, env=environment)
        try:
            yield
        finally:
            self._process.terminate()
            try:
                code = self._process.wait(BOUND_S)
                if code:
                    self._servers.ledger.add_violation(f"gatepass ended with {code} after SIGTERM")
            except subprocess.TimeoutExpired:
                self._servers.ledger.add_violation("gatepass hangs after SIGTERM")
                self._process.kill()
                self._process.wait()
            self._closed.close()

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def workers(self) -> list[int]:
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            return [int(pid) for pid in path.read_text().split()]
        except OSError:
            return []

    def floors(self) -> list[tuple[int, int, int]]:
        """Return process id, descriptors and memory in MiB of each worker."""
        found = []
        for pid in self.workers():
            with contextlib.suppress(OSError, TypeError):
                size = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                found.append((pid, len(os.listdir(f"/proc/{pid}/fd")), int(size[1]) // 1024 if size else 0))
        return found


class Reader:
    """One client connection, and the response on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.begin()

    def begin(self) -> None:
        self.response = Response()
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
    """Clients that read, disconnect, read slowly, or send incomplete and invalid requests."""

    def __init__(self, gatepass: Gatepass, ledger: Ledger, seed: int) -> None:
        self._gatepass = gatepass
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
            "slow": 5,
            "send_half": 5,
            "mutated": 4,
            "unknown_key": 4,
            "keep_alive": 10,
            "invalid_body": 4,
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
            stream_reader, writer = await asyncio.open_connection("127.0.0.1", self._gatepass.port, limit=16_384)
        except OSError as error:
            self._ledger.add_violation(f"the port refuses connections: {error}")
            raise
        try:
            yield Reader(stream_reader, writer)
        finally:
            writer.transport.abort()

    def _request(self, expectation: Expectation, r: Random, key: str | None = None, body: bytes | None = None) -> bytes:
        path = "/v1/embeddings" if expectation.kind == "vectors" else "/v1/chat/completions"
        fields = {"host": "chaos", "content-type": "application/json"}
        fields["authorization"] = f"Bearer {key or self._gatepass.key}"
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
        """Send three requests on one connection. It may be closed between two of them."""
        async with self._connected() as client:
            for number in range(3):
                expectation, began_s = self._expect(f"{name}.{number}", r), time.monotonic()
                client.begin()
                client.writer.write(self._request(expectation, r))
                with contextlib.suppress(OSError):
                    while await client.read():
                        pass
                response = client.settled()
                if number and not response.raw:
                    self._ledger.outcomes["kept connection was closed"] += 1
                    return
                self._ledger.record(expectation, response, began_s, time.monotonic())
                if not response.is_complete or response.headers.get("connection") == "close":
                    return
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
            # a worker that stops may close a connection without a complete request
            self._ledger.record(
                expectation, client.settled(), began_s, time.monotonic(), is_disconnected=not client.response.raw
            )

    async def _mutated(self, name: str, r: Random) -> None:
        expectation, began_s = Expectation(f"u{self._seed}-{name}", "refused"), time.monotonic()
        self._ledger.expect(expectation)
        request = bytearray(self._request(Expectation(expectation.uid, "plain"), r, key="none"))
        for _ in range(r.randint(1, 8)):
            request[r.randrange(len(request))] = r.randrange(256)
        async with self._connected() as client:
            client.writer.write(bytes(request))
            client.writer.write_eof()
            while await client.read():
                pass
            response = client.settled()
            self._ledger.scan(response.raw, f"what {name} received")
            self._ledger.outcomes[f"mutated request: {response.status}"] += 1
            if response.status >= 500 and response.status not in (501, 503, 505):
                self._ledger.add_violation(
                    f"{name}: a mutated request got {response.status} after {time.monotonic() - began_s:.1f} s"
                )

    async def _unknown_key(self, name: str, r: Random) -> None:
        expectation, began_s = Expectation(f"u{self._seed}-{name}", "refused"), time.monotonic()
        self._ledger.expect(expectation)
        async with self._connected() as client:
            request = self._request(Expectation(expectation.uid, "plain"), r, key="sk-unknown-key-of-a-stranger")
            await self._exchange(expectation, client, request, began_s)

    async def _invalid_body(self, name: str, r: Random) -> None:
        expectation, began_s = Expectation(f"u{self._seed}-{name}", "refused"), time.monotonic()
        self._ledger.expect(expectation)
        bodies = (b"", b"[]", b'{"model":"m"', b'{"model":"m","model":1}', b"\xff\xfe", b'{"a":' * 90)
        async with self._connected() as client:
            request = self._request(expectation, r, body=r.choice(bodies))
            await self._exchange(expectation, client, request, began_s)

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
                f"authorization: Bearer {self._gatepass.key}\r\n\r\n".encode()
            )
            while await client.read():
                pass
            response = client.settled()
        self._ledger.scan(response.raw, path)
        return response


class Chaos:
    def __init__(self, seed: int, seconds: float, folder: Path) -> None:
        self._seed, self._seconds = seed, seconds
        self.ledger = Ledger(MARK)
        self._servers = FakeServers(seed, self.ledger, Issuer(seed, self.ledger), Upstream(seed, self.ledger))
        self._folder = folder
        self._before: list[tuple[int, int, int]] = []
        self._after: list[tuple[int, int, int]] = []
        self._slowest_health_s = 0.0
        self._health = 0
        self._peaks = (0, 0)

    def run(self) -> bool:
        with self._servers.serving():
            self._gatepass = Gatepass(self._folder, self._servers, self._seed)
            self._clients = Clients(self._gatepass, self.ledger, self._seed)
            with self._gatepass.running():
                asyncio.run(self._phases())
        log = self._gatepass.log.read_bytes()
        for line in log.splitlines():
            self.ledger.scan(line, "the log")
            if b"Traceback" in line or b"internal_error" in line:
                self.ledger.add_violation(f"in the log: {line[:2000]!r}")
        violations = self.ledger.finish()
        self._report(violations, log.count(b"\n"))
        return not violations

    async def _phases(self) -> None:
        self._calm(True)
        await until(lambda: b'"event":"listening"' in self._gatepass.log.read_bytes(), BOUND_S)
        await self._await_good_replies("warm", 100)
        self._before = self._gatepass.floors()
        self._calm(False)
        watching = asyncio.create_task(self._watch())
        until_s = time.monotonic() + self._seconds
        clients = [self._clients.run(number, until_s) for number in range(CLIENTS)]
        await asyncio.gather(self._disturb(until_s), *clients)
        self._calm(True)
        await self._await_good_replies("heal", 100)
        await self._settle()
        watching.cancel()
        for path in ("/metrics", "/status", "/learned", "/healthz"):
            await self._clients.page(path)

    def _calm(self, is_calm: bool) -> None:
        self._servers.issuer.is_calm = self._servers.upstream.is_calm = is_calm

    async def _await_good_replies(self, name: str, count: int) -> None:
        """Wait up to QUIET_BOUND_S for `count` consecutive replies without an error."""
        until_s, number, answers = time.monotonic() + QUIET_BOUND_S, 0, 0
        while answers < count:
            number += 1
            before = self.ledger.outcomes["answer"]
            await self._clients.one(f"{name}-{number}", "read")
            answers = answers + 1 if self.ledger.outcomes["answer"] > before else 0
            if not answers:
                await asyncio.sleep(0.2)
            if time.monotonic() > until_s and answers < count:
                self.ledger.add_violation(f"{name}: no {count} answers in a row without faults")
                return

    async def _watch(self) -> None:
        """Poll `/healthz` during the run. Repeat a request whose worker was killed."""
        asked_s = time.monotonic()
        while True:
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(HEALTH_BOUND_S):
                    response = await self._clients.page("/healthz")
                if response.is_complete and response.status != 200:
                    self.ledger.add_violation(f"/healthz: {response.raw[:300]!r}")
                if response.is_complete:
                    asked_s, self._health = time.monotonic(), self._health + 1
            except (OSError, TimeoutError):
                pass
            now_s = time.monotonic()
            if now_s - asked_s > HEALTH_BOUND_S:
                self.ledger.add_violation(f"/healthz did not answer for {now_s - asked_s:.0f} s")
                asked_s = now_s
            self._slowest_health_s = max(self._slowest_health_s, now_s - began_s)
            self.ledger.add_delay(now_s, now_s - began_s)
            for _, descriptors, memory in self._gatepass.floors():
                self._peaks = max(self._peaks[0], descriptors), max(self._peaks[1], memory)
            await asyncio.sleep(0.3)

    async def _disturb(self, until_s: float) -> None:
        r, number = Random(f"{self._seed}:disturb"), 0
        process_faults_until_s = until_s - self._seconds * (1 - DISTURBED_SHARE)
        while (now_s := time.monotonic()) < until_s - 2:
            number += 1
            server_faults = ["outage", "revoke", "storm", "rotate"]
            process_faults = ["kill", "kill", "reload", "move", "pause"]
            kind = r.choice(server_faults + process_faults)
            gap_s = 2 + 6 * r.random()
            if now_s < process_faults_until_s or kind in server_faults:
                self.ledger.events[kind] += 1
                await self._do(kind, r, number)
            await asyncio.sleep(min(gap_s, max(0.0, until_s - time.monotonic())))

    async def _do(self, kind: str, r: Random, number: int) -> None:
        workers = self._gatepass.workers()
        victim = r.choice(workers) if workers else 0
        if kind == "outage":
            self._servers.issuer.outage_until_s = time.monotonic() + r.choice((2, 8, 30))
        elif kind == "revoke":
            self._servers.upstream.revoke()
        elif kind == "rotate":
            self._gatepass.rotate()
        elif kind == "reload":
            self._gatepass.reload()
        elif kind == "move":
            self._gatepass.configure()
            self._gatepass.reload()
        elif kind == "storm":
            await asyncio.gather(*(self._clients.one(f"storm-{number}-{one}", "burst") for one in range(STORM)))
        elif victim and kind == "kill":
            self.ledger.kills_s.append(time.monotonic())
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        elif victim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP)
            await asyncio.sleep(2.0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)

    async def _settle(self) -> None:
        """Wait until requests, descriptors and connections are at their idle values, at most QUIET_BOUND_S."""
        until_s, unsettled = time.monotonic() + QUIET_BOUND_S, ["unknown"]
        while unsettled and time.monotonic() < until_s:
            await asyncio.sleep(2.0)
            unsettled = await self._unsettled()
        for what in unsettled:
            self.ledger.add_violation(f"after quiet: {what}")

    async def _unsettled(self) -> list[str]:
        self._after = self._gatepass.floors()
        found = []
        most, largest = (max(one[at] for one in self._before) for at in (1, 2))
        for pid, descriptors, memory in self._after:
            if descriptors > most + SPARE_DESCRIPTORS:
                found.append(f"worker {pid} has {descriptors} descriptors, {most} before")
            if memory > largest + SPARE_MIB:
                found.append(f"worker {pid} has {memory} MiB, {largest} before")
        if len(self._after) != 2:
            found.append(f"{len(self._after)} workers")
        if (count := self._servers.by_name["upstream"].open) > 2 * SPARE_DESCRIPTORS:
            found.append(f"{count} connections to the upstream")
        response = await self._clients.page("/metrics")
        values = re.findall(rb"^gatepass_requests_in_flight(?:{[^}]*})? (\S+)", response.body, re.MULTILINE)
        if not values or any(float(value) for value in values):
            found.append(f"requests in flight: {values}")
        return found

    def _report(self, violations: Sequence[str], lines: int) -> None:
        ledger, faults = self.ledger, self.ledger.faults
        print(f"chaos: seed {self._seed}, {self._seconds:g} s, {self._clients.operations} client operations")
        for title, counts in (("clients and disturbances", ledger.events), ("outcomes", ledger.outcomes)):
            print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
        for side in ("issuer", "token", "upstream"):
            found = {name: count for name, count in faults.items() if name.startswith(f"{side} ")}
            shown = ", ".join(f"{name.partition(' ')[2]} {count}" for name, count in sorted(found.items()))
            print(f"{side} ({sum(found.values())}): {shown}")
        print(f"/healthz: {self._health} answers, the slowest after {self._slowest_health_s:.2f} s")
        print(f"tokens that arrived after their end, those within the tolerance too: {ledger.late}")
        for title, floors in (("before", self._before), ("after quiet", self._after)):
            shown = "; ".join(f"{fds} descriptors, {memory} MiB" for _, fds, memory in floors)
            print(f"workers {title}: {shown}")
        print(f"allowed after quiet: {SPARE_DESCRIPTORS} descriptors and {SPARE_MIB} MiB more than before")
        print(f"highest of a worker meanwhile: {self._peaks[0]} descriptors, {self._peaks[1]} MiB")
        print(f"log: {lines} lines")
        for what in violations[:20]:
            print(f"VIOLATION {what}")
        print(f"violations: {len(violations)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress.chaos", description="Inject faults everywhere at once."
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--keep", type=Path, help="a folder for the log of gatepass")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(options.seed, options.seconds, Path(folder))
        is_ok = chaos.run()
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / "gatepass.log").write_bytes((Path(folder) / "log").read_bytes())
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
