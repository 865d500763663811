"""The file descriptors that connections need: their number, and the log while none is free."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from gatepass.config.model import Config
from gatepass.server.listening import (
    PAUSE_S,
    Acceptor,
    ConnectionCounts,
    bind,
    has_free_descriptor,
    ignore_new_connections,
)
from tests.waiting import until

UPSTREAM = {"base_url": "http://127.0.0.1:9/v1"}


@pytest.fixture
def none_free() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_has_free_descriptor_is_false_at_the_limit(none_free: None) -> None:
    assert not has_free_descriptor()


@pytest.mark.parametrize(
    ("blocks", "descriptors"),
    [
        ({}, 4001 + 1000 + 4000 + 64),
        ({"limits": {"connections": 100}}, 100 + 1 + 25 + 100 + 64),
        ({"upstreams": {"a": {**UPSTREAM, "max_connections": 30}}}, 4000 + 1 + 1000 + 30 + 64),
        ({"upstreams": {"a": UPSTREAM, "b": UPSTREAM}, "models": {"*": {"upstream": "a"}}}, 4001 + 1000 + 4001 + 64),
    ],
)
def test_limits_require_this_many_descriptors(blocks: dict[str, object], descriptors: int) -> None:
    config = Config.model_validate({"upstreams": {"a": UPSTREAM}, **blocks})
    assert config.descriptors == descriptors


class Counting(asyncio.Protocol):
    def __init__(self, made: list[asyncio.BaseTransport]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(transport)


@contextmanager
def connections(listening: socket.socket, count: int) -> Iterator[None]:
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(socket.socket()).connect(listening.getsockname())
        yield


async def accepted(listening: socket.socket, seats: ConnectionCounts, count: int) -> None:
    made: list[asyncio.BaseTransport] = []
    connect = partial(asyncio.get_running_loop().connect_accepted_socket, lambda: Counting(made))
    acceptor = Acceptor(listening, connect, lambda: len(made), seats)
    try:
        with connections(listening, count):
            await until(lambda: len(made) == count)
    finally:
        await acceptor.close()
        for transport in made:
            transport.close()


async def test_another_worker_accepts_if_the_one_with_fewest_connections_hangs(tmp_path: Path) -> None:
    ConnectionCounts(tmp_path / "seats", 1).publish(0)
    began_s = time.monotonic()
    await accepted(bind("127.0.0.1", 0), ConnectionCounts(tmp_path / "seats", 0), 30)
    assert time.monotonic() - began_s >= PAUSE_S


async def test_a_worker_that_ended_counts_no_more(tmp_path: Path) -> None:
    first, second = (ConnectionCounts(tmp_path / "seats", own) for own in (0, 1))
    first.publish(7)
    second.publish(3)
    assert ConnectionCounts(tmp_path / "seats").fewest() == 3
    first.clear(1)
    assert second.fewest() == 7
    first.clear(0)
    assert second.fewest() == 0


def test_only_the_last_worker_that_leaves_learns_so(tmp_path: Path) -> None:
    first, second = (ConnectionCounts(tmp_path / "seats", own) for own in (0, 1))
    first.publish(0)
    second.publish(3)
    assert [first.leave(), second.leave()] == [False, True]


class OneFailure(socket.socket):
    """The process has no free file descriptor when the first connection comes."""

    failed = False

    def accept(self) -> tuple[socket.socket, object]:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_connection_waits_while_no_descriptor_is_free(tmp_path: Path) -> None:
    listening = OneFailure(fileno=bind("127.0.0.1", 0).detach())
    await accepted(listening, ConnectionCounts(tmp_path / "seats", 0), 2)
    assert listening.failed


def test_only_the_queue_is_accepted_after_new_connections_are_ignored() -> None:
    with bind("127.0.0.1", 0) as listening, socket.socket() as waiting, socket.socket() as late:
        listening.listen()
        listening.setblocking(False)
        waiting.connect(listening.getsockname())
        ignore_new_connections(listening)
        late.setblocking(False)
        assert late.connect_ex(listening.getsockname()) == errno.EINPROGRESS
        accepted, address = listening.accept()
        accepted.close()
        assert address == waiting.getsockname()
        with pytest.raises(BlockingIOError):
            listening.accept()
    ignore_new_connections(listening)  # a closed socket is no error


def test_a_handshake_that_has_begun_ends_after_new_connections_are_ignored() -> None:
    with bind("127.0.0.1", 0) as listening, socket.socket() as client:
        # the system then ignores the last packet of the handshake until data arrives
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        listening.listen()
        listening.settimeout(5)
        client.connect(listening.getsockname())
        ignore_new_connections(listening)
        client.sendall(b"GET")
        accepted, address = listening.accept()
        with accepted:
            assert address == client.getsockname()
            assert accepted.recv(3) == b"GET"
