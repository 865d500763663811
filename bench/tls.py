"""What TLS of the listener (`server.tls`) costs gatepass, beside a bare echo of uvloop with TLS: `make bench-tls`.

Each of four servers runs under valgrind, which counts its user instructions: gatepass as in bench/in_process.py behind
real sockets, and a protocol that answers each request with the bytes of gatepass's response. Both serve with and
without TLS, with the same certificate and settings. The difference is the cost of TLS, and its ratio has the bar. Runs
differ by about 4,000 instructions for a chat. The client is another process, which is not counted.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import trustme
import uvloop

from bench.in_process import REPLY, connect, request
from bench.tracing import NOWHERE, _total
from bench.workloads import write_bodies
from gatepass.config.model import ListenerTlsFiles
from gatepass.server.connection import ClientConnection
from gatepass.server.listener_tls import ListenerTls

MOST = 1.1
WARM_CHATS, WARM_CONNECTIONS = 100, 20
CHATS, CONNECTIONS = 400, 100
SERVERS = tuple(itertools.product(("gatepass", "echo"), ("plain", "tls")))
BOUND_S = 120.0
KINDS = ("a chat on an open connection", "a new connection with a chat")


class Echo(asyncio.Protocol):
    """Answers as many bytes as `asked` has with `answer`."""

    def __init__(self, asked: bytes, answer: bytes) -> None:
        self._size_bytes, self._answer, self._received = len(asked), answer, 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received == self._size_bytes:
            self._received = 0
            self._transport.write(self._answer)


async def serve(name: str, folder: Path, *, is_tls: bool) -> None:
    """Serve until the process is killed. Print the port first."""
    files = ListenerTlsFiles(cert_file=str(folder / "cert.pem"), key_file=str(folder / "key.pem"))
    context = ListenerTls(files).context if is_tls else None
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    click.echo(f"port {listening.getsockname()[1]}")
    if name == "echo":
        answer = (folder / "answer").read_bytes()
        await loop.create_server(lambda: Echo(request("chat"), answer), sock=listening, ssl=context)
        await asyncio.Event().wait()
    _, upstream, client = await connect(NOWHERE)
    upstream.set_reply(REPLY)
    config, reception = client.server_config, client.context
    server_state = client._connection._server_state  # noqa: SLF001 - one server, as in production
    handshakes: set[asyncio.Task[None]] = set()

    def make() -> ClientConnection:
        return ClientConnection(reception, config=config, server_state=server_state)

    while True:
        accepted, _ = await loop.sock_accept(listening)
        if context is None:
            await loop.connect_accepted_socket(make, accepted)
        else:
            task = asyncio.create_task(make().begin_tls(accepted, context))
            handshakes.add(task)
            task.add_done_callback(handshakes.discard)


def ask(connection: socket.socket, asked: bytes) -> bytes:
    """Send a request, and return its response."""
    connection.sendall(asked)
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(received.decode())
    left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(body)
    while left > 0:
        received += (data := _some(connection))
        left -= len(data)
    return received


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise SystemExit("the counted server closed a connection")
    return data


def instructions(name: str, folder: Path, authority: trustme.CA, *, is_tls: bool) -> tuple[float, float]:
    """Return the instructions of each of KINDS, in thousands."""
    client = ssl.create_default_context()
    authority.configure_trust(client)
    asked = request("chat")

    def opened(port: int) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", port), BOUND_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client.wrap_socket(plain, server_hostname="127.0.0.1") if is_tls else plain

    def new_connections(port: int, count: int) -> None:
        for _ in range(count):
            with opened(port) as connection:
                ask(connection, asked)

    with tempfile.TemporaryDirectory() as counts:
        valgrind = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counts}/out"]
        served = [sys.executable, "-m", "bench.tls", "--serve", name, "--folder", str(folder), *["--tls"] * is_tls]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        with subprocess.Popen([*valgrind, *served], env=environment, stdout=subprocess.PIPE, text=True) as child:

            def control(*what: str) -> None:
                program = shutil.which("callgrind_control") or "callgrind_control"
                subprocess.run([program, *what, str(child.pid)], check=True, capture_output=True)

            def counted(act: Callable[[], None]) -> int:
                before = set(Path(counts).iterdir())
                control("-z")
                act()
                control("-d")
                return sum(_total(file) for file in set(Path(counts).iterdir()) - before)

            try:
                port = int(_port(child.stdout))
                new_connections(port, WARM_CONNECTIONS)
                with opened(port) as connection:
                    answer = [ask(connection, asked) for _ in range(WARM_CHATS)][-1]
                    control("-i", "on")
                    ask(connection, asked)
                    chats = counted(lambda: [ask(connection, asked) for _ in range(CHATS)] and None)
                new_connections(port, 2)
                connections = counted(lambda: new_connections(port, CONNECTIONS))
            finally:
                child.kill()
        if name == "gatepass":
            (folder / "answer").write_bytes(answer)
        return chats / CHATS / 1e3, connections / CONNECTIONS / 1e3


def _port(lines: Any) -> str:
    for line in lines:
        if line.startswith("port "):
            return str(line.split()[1])
    raise SystemExit("the counted server ended")


def verdict(costs: dict[tuple[str, str], tuple[float, float]]) -> bool:
    """Print the table and return whether the bar holds for each of KINDS."""
    click.echo(f"{'instructions, thousands':38}{'plain':>12}{'TLS':>12}{'added':>12}")
    ratios = []
    for number, kind in enumerate(KINDS):
        added = {}
        for name in ("gatepass", "echo"):
            plain, tls = costs[name, "plain"][number], costs[name, "tls"][number]
            added[name] = tls - plain
            click.echo(f"{kind + ', ' + name:38}{plain:12.1f}{tls:12.1f}{added[name]:12.1f}")
        ratios.append(added["gatepass"] / added["echo"])
    holds = max(ratios) <= MOST
    found = ", ".join(f"{kind} {ratio:.2f}" for kind, ratio in zip(KINDS, ratios, strict=True))
    click.echo(f"TLS of gatepass x TLS of the echo: {found}, at most {MOST:g}: {'met' if holds else 'missed'}")
    return holds


@click.command()
@click.option("--serve", "served", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--tls", "is_tls", is_flag=True, hidden=True)
def main(served: str | None, folder: Path | None, is_tls: bool) -> None:
    if served is not None and folder is not None:
        uvloop.run(serve(served, folder, is_tls=is_tls))
    if not shutil.which("valgrind"):
        raise SystemExit("make bench-tls requires valgrind")
    write_bodies()
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pair = authority.issue_cert("127.0.0.1")
        pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        pair.private_key_pem.write_to_path(folder / "key.pem")
        costs = {(name, kind): instructions(name, folder, authority, is_tls=kind == "tls") for name, kind in SERVERS}
    sys.exit(0 if verdict(costs) else 1)


if __name__ == "__main__":
    main()
