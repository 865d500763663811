"""Connections spread over workers in any order, while workers are replaced or die."""

import asyncio
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from gatepass.server.listening import Acceptor, ConnectionCounts, bind
from tests.attacks.conftest import Attack
from tests.waiting import until

CONNECTIONS = 100
MOST = 1.3
"""Times its share: what one worker may hold at CONNECTIONS."""


@dataclass(frozen=True, slots=True)
class Case:
    """`batches` of connections come at once, each when those before are open. After the first one a worker changes."""

    workers: int
    change: str
    batches: tuple[int, ...]


@dataclass(eq=False)
class Worker:
    """One of several acceptors on a socket; `held` are its open connections."""

    seat: int
    held: set[asyncio.BaseTransport] = field(default_factory=set)
    acceptor: Acceptor | None = None

    def start(self, listening: socket.socket, file: Path) -> None:
        connect = partial(asyncio.get_running_loop().connect_accepted_socket, lambda: _Open(self.held))
        counts = ConnectionCounts(file, self.seat)
        self.acceptor = Acceptor(listening.dup(), connect, lambda: len(self.held), counts)

    async def close(self) -> None:
        assert self.acceptor is not None
        await self.acceptor.close()

    def drop(self) -> None:
        for transport in self.held:
            transport.close()
        self.held.clear()


class _Open(asyncio.Protocol):
    def __init__(self, held: set[asyncio.BaseTransport]) -> None:
        self._held = held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._held.discard(self._transport)


async def spread(case: Case) -> list[int]:
    clients: list[socket.socket] = []
    listening = bind("127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as folder, listening:
        file = Path(folder) / "connections"
        workers = [Worker(seat) for seat in range(case.workers)]
        for worker in workers:
            worker.start(listening, file)
        try:
            for number, batch in enumerate(case.batches):
                await connect(listening, batch, clients, workers)
                if number == 0 and case.change != "none":
                    await change(case.change, workers, file)
                    workers[0].start(listening, file)
                    await connect(listening, batch, clients, workers)  # they come again
            return [len(worker.held) for worker in workers]
        finally:
            for worker in workers:
                await worker.close()
                worker.drop()
            for client in clients:
                client.close()


async def connect(
    listening: socket.socket, count: int, clients: list[socket.socket], workers: Sequence[Worker]
) -> None:
    """Open connections until `count` more are held, one for each of a worker that has gone too."""
    wanted = min(CONNECTIONS, sum(len(worker.held) for worker in workers) + count)
    for _ in range(wanted - sum(len(worker.held) for worker in workers)):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listening.getsockname())
        clients.append(client)
    await until(lambda: sum(len(worker.held) for worker in workers) == wanted)


async def change(kind: str, workers: list[Worker], file: Path) -> None:
    """The first worker retires, and its clients leave it; or it dies, and the supervisor finds out."""
    first = workers[0]
    if kind == "replaced":
        await first.close()
    else:
        assert first.acceptor is not None
        await first.acceptor.close()
        first.acceptor.publish()  # only the supervisor removes a count
        ConnectionCounts(file).clear(first.seat)
    first.drop()
    workers[0] = Worker(len(workers) + 1)


@pytest.mark.attack("connections over workers")
@pytest.mark.parametrize(
    "case",
    [
        Case(2, "none", (CONNECTIONS,)),
        Case(3, "none", (30, 40, 30)),
        Case(5, "replaced", (50, 50)),
        Case(4, "replaced", (CONNECTIONS - 1, 1)),
        Case(2, "died", (60, 40)),
        Case(4, "died", (1,) * 20 + (80,)),
    ],
    ids=lambda case: f"{case.workers} {case.change}",
)
def test_no_worker_holds_more_than_1_3_times_its_share(attack: Attack, case: Case) -> None:
    attack.cases += 1
    held = asyncio.run(spread(case))
    attack.check(sum(held) == CONNECTIONS and max(held) <= MOST * CONNECTIONS / len(held), (case, held))
