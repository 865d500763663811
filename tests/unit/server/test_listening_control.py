"""The control socket: its path, its permissions, and when an old one is replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepass.server import listening as listening_module
from gatepass.server.listening import AUTO, control_sockets, is_listening, listen_control, remove_control


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
