"""The file descriptors that connections need, the log while none is free, and the control socket."""

import asyncio
import errno
import math
import os
import select
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from gatepass.server import listening as listening_module
from gatepass.server.listening import AUTO, bind, control_sockets, is_listening, listen_control, remove_control, sent_to
from gatepass.server.process import Acceptor, ignore_new_connections
from tests.waiting import block_until, until


class Counting(asyncio.Protocol):
    def __init__(self, made: list[asyncio.BaseTransport]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(transport)


class OneFailure(socket.socket):
    """The process has no free file descriptor when the first connection comes."""

    failed = False

    def accept(self) -> tuple[socket.socket, object]:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_connection_waits_while_no_descriptor_is_free() -> None:
    listening = OneFailure(fileno=bind("127.0.0.1", 0).detach())
    exhausted, made = list[bool](), list[asyncio.BaseTransport]()
    connect = partial(asyncio.get_running_loop().connect_accepted_socket, lambda: Counting(made))
    acceptor = Acceptor(listening, connect, lambda: exhausted.append(listening.failed))
    with socket.socket() as one, socket.socket() as other:
        for client in (one, other):
            client.connect(listening.getsockname())
        await until(lambda: len(made) == 2)
        acceptor.stop()
        await acceptor.close()
        for transport in made:
            transport.close()
    assert exhausted == [True]


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
        listening.setblocking(True)
        client.connect(listening.getsockname())
        ignore_new_connections(listening)
        client.sendall(b"GET")
        accepted, address = listening.accept()
        with accepted:
            assert address == client.getsockname()
            assert accepted.recv(3) == b"GET"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(listening_module, "SHARED_MEMORY", str(tmp_path / "shm"))
    return {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "TMPDIR": str(tmp_path / "tmp")}


def test_the_socket_is_for_its_user_alone_and_is_found_until_it_is_removed(tmp_path: Path, runtime: dict[str, str]):
    (tmp_path / "run").mkdir()
    path, listening = listen_control(AUTO, 8080, runtime)
    assert path == tmp_path / "run" / "gatepass" / "8080.sock"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["8080.sock"]
    assert control_sockets(runtime) == [path]
    remove_control(path, listening)
    assert not path.exists()
    assert control_sockets(runtime) == []


@pytest.mark.parametrize("usable", ["shm", "tmp"])
def test_the_first_folder_that_can_be_created_is_used(tmp_path: Path, runtime: dict[str, str], usable: str):
    """As in a container with a read-only root."""
    (tmp_path / usable).mkdir()
    path, listening = listen_control(AUTO, 8080, runtime)
    assert path == tmp_path / usable / f"gatepass-control-{os.geteuid()}" / "8080.sock"
    remove_control(path, listening)


def test_no_folder_that_can_be_created_is_an_error(runtime: dict[str, str]):
    with pytest.raises(FileNotFoundError):
        listen_control(AUTO, 8080, runtime)


def test_the_socket_of_a_dead_process_is_replaced_and_that_of_a_living_one_is_not(tmp_path: Path):
    folder = tmp_path / "own"
    folder.mkdir(0o700)
    path = folder / "g.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not is_listening(path)
    found, first = listen_control(str(path), 1, {})
    assert found == path
    with pytest.raises(OSError) as refused:
        listen_control(str(path), 1, {})
    assert refused.value.errno == errno.EADDRINUSE
    assert is_listening(path)
    first.close()
    _, second = listen_control(str(path), 1, {})
    remove_control(path, first)  # the end of the first process leaves the socket of the second one
    assert is_listening(path)
    remove_control(path, second)
    assert list(folder.iterdir()) == []


def test_a_file_of_this_name_is_kept_and_a_folder_that_others_may_write_to_is_refused(tmp_path: Path):
    own, shared, linked = tmp_path / "own", tmp_path / "shared", tmp_path / "linked"
    own.mkdir(0o700)
    shared.mkdir()
    shared.chmod(0o1777)
    linked.symlink_to(own)
    (own / "g.sock").write_text("notes")
    for path, reason in (
        (own / "g.sock", "a file with this name exists"),
        (shared / "g.sock", "another user owns its folder or may write to it"),
        (linked / "h.sock", "another user owns its folder or may write to it"),
        (own / ("x" * 120), "its path is longer than 107 bytes"),
    ):
        with pytest.raises(OSError, match=reason):
            listen_control(str(path), 1, {})
    assert (own / "g.sock").read_text() == "notes"
    assert [one.name for one in own.iterdir()] == ["g.sock"]


def test_a_living_process_whose_queue_is_full_is_not_replaced(tmp_path: Path):
    path, listening = listen_control(str(tmp_path / "own" / "control.sock"), 8080, {})
    waiting = []
    try:
        code = 0
        while code == 0:
            waiting.append(client := socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            code = client.connect_ex(str(path))
        assert code == errno.EAGAIN
        assert is_listening(path)
        with pytest.raises(OSError, match="another gatepass uses it"):
            listen_control(str(path), 8080, {})
    finally:
        for client in waiting:
            client.close()
    remove_control(path, listening)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tcp_info")
def test_the_kernel_says_whether_a_client_reads_even_if_it_does_not_wake_the_writer() -> None:
    with bind("127.0.0.1", 0) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()) as client:
            accepted, _ = listening.accept()
            with accepted:
                accepted.setblocking(False)
                with suppress(BlockingIOError):
                    while True:
                        accepted.send(bytes(1 << 16))
                block_until(lambda: sent_to(accepted)[0] >= 0.3)
                silent_s, acked_bytes = sent_to(accepted)
                assert acked_bytes > 0
                block_until(lambda: client.recv(1 << 14) and sent_to(accepted)[0] < silent_s)
                block_until(lambda: sent_to(accepted)[1] > acked_bytes)
                assert not select.select([], [accepted], [], 0)[1]
    assert sent_to(None) == (math.inf, 0)
    with socket.socket(socket.AF_UNIX) as unix:
        assert sent_to(unix) == (math.inf, 0)
