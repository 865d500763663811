"""Listening socket and control socket, the accepting of connections, and free file descriptors.

Commands and `gatepass serve` share this module, so it imports the standard library only.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from array import array
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

UNSENT_BYTES = 512 * 1024
"""Bytes that the kernel accepts for a client beyond what the client has room for. Accepted sockets inherit this limit.

By default it accepts 4 MiB for a client that does not read, and gatepass reads, parses and writes all of it first.
"""


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; raise OSError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # a restart must not wait until the last connections have left TIME_WAIT
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listening.bind((host, port))
        listening.set_inheritable(False)
    except OSError:
        listening.close()
        raise
    return listening


def url_of(listening: socket.socket, scheme: str) -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


SO_ATTACH_FILTER = 26
"""Linux, see socket(7). Python has no name for it."""
_DROP_SYN = struct.pack(
    "HBBIHBBIHBBIHBBIHBBI",
    *(0x30, 0, 0, 13),  # load the byte at 13 of the TCP header: its flags
    *(0x54, 0, 0, 0x12),  # keep SYN and ACK
    *(0x15, 0, 1, 0x02),  # a SYN without ACK?
    *(0x06, 0, 0, 0),  # then accept 0 bytes of the packet
    *(0x06, 0, 0, 0xFFFFFFFF),  # else all of them
)
"""A BPF program of five struct sock_filter. The filter of a TCP socket sees packets from the TCP header on."""
HANDSHAKE_S = 0.1
"""How long a stop waits for handshakes that have begun. A client with a longer round trip may be reset."""


def ignore_new_connections(listening: socket.socket) -> None:
    """Let the system drop each new attempt to connect; handshakes that have begun, and the queue, go on.

    Otherwise a connection that arrives between the last accept and the close is reset: one in 56 stops under load. A
    dropped client tries again after a second, and the port then belongs to nobody or to the next process. A filter
    that also dropped the last packet of a handshake still reset one in 110.
    """
    code = array("B", _DROP_SYN)
    program = struct.pack("HP", len(code) // 8, code.buffer_info()[0])
    with suppress(OSError):  # the socket is closed, or the system has no filters
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


BACKLOG = 2048
"""The same as in uvicorn. Linux lowers it to net.core.somaxconn."""
ACCEPTS = 6
"""Connections accepted in one iteration of the loop. More would delay the streams in progress."""
NO_DESCRIPTOR_S = 0.1


class Acceptor:
    """Accepts the connections of one listening socket, a few in each iteration of the loop."""

    # asyncio's own server accepts all waiting connections at each wake-up.

    def __init__(
        self,
        listening: socket.socket,
        connect: Callable[[socket.socket], Coroutine[Any, Any, object]],
        on_exhausted: Callable[[], object],
    ) -> None:
        """`connect` serves a new connection. `on_exhausted` is called while no file descriptor is free for one."""
        self._on_exhausted = on_exhausted
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._connect = connect
        self._making: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._resume()

    def stop(self) -> None:
        """Stop accepting."""
        self._loop.remove_reader(self._listening)
        if self._later is not None:
            self._later.cancel()

    async def close(self) -> None:
        """Close the socket after `stop`. Return when every accepted connection has its protocol."""
        self._listening.close()
        await asyncio.gather(*self._making, return_exceptions=True)

    def _resume(self) -> None:
        self._later = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                accepted, _ = self._listening.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # the socket stays readable: without a pause the event loop would spin
                    self._loop.remove_reader(self._listening)
                    self._later = self._loop.call_later(NO_DESCRIPTOR_S, self._resume)
                    self._on_exhausted()
                return
            making = self._loop.create_task(self._connect(accepted))
            self._making.add(making)
            making.add_done_callback(self._making.discard)


AUTO, OFF = "auto", "off"
"""Values of `server.control_socket` that are not a path."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it has mode 0700
"""A tmpfs, which is never written to a disk. Each container has its own, also with a read-only root."""
CONTROL_CONNECT_S = 1.0
CONTROL_BACKLOG = 16
WRITABLE_BY_OTHERS = 0o022
LONGEST_PATH_BYTES = 107
"""The limit of Linux, see unix(7)."""


def control_folders(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folders for a control socket, best first. Each belongs to this user alone."""
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "gatepass")
    name = f"gatepass-control-{os.geteuid()}"
    yield Path(SHARED_MEMORY, name)
    yield Path(environment.get("TMPDIR") or "/tmp", name)  # noqa: S108 - the folder in it has mode 0700


def listen_control(setting: str, port: int, environment: Mapping[str, str]) -> tuple[Path, socket.socket]:
    """Return the path and the control socket of the gatepass at `port`. `setting` is `auto` or a path.

    Raises OSError if no folder is usable, or if another gatepass uses the socket.
    """
    if setting != AUTO:
        return _listen(Path(setting).absolute())
    failure = OSError(errno.ENOENT, "no folder is writable")
    for folder in control_folders(environment):
        try:
            return _listen(folder / f"{port}.sock")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            failure = error
    raise failure


def _listen(path: Path) -> tuple[Path, socket.socket]:
    if len(os.fsencode(path)) > LONGEST_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"its path is longer than {LONGEST_PATH_BYTES} bytes", str(path))
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not _is_own_folder(path.parent):
        raise PermissionError(errno.EPERM, "another user owns its folder or may write to it", str(path))
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "a file with this name exists", str(path))
    if is_listening(path):
        raise OSError(errno.EADDRINUSE, "another gatepass uses it", str(path))
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # under its own name the socket always listens: one that refuses connections is a dead process's
    new = path.with_name(f".{os.getpid()}.new")
    try:
        listening.bind(str(new))
        new.chmod(0o600)
        listening.listen(CONTROL_BACKLOG)
        new.rename(path)
    except OSError:
        listening.close()
        new.unlink(missing_ok=True)
        raise
    return path, listening


def remove_control(path: Path, listening: socket.socket) -> None:
    """Close `listening` and remove its socket, unless another gatepass has replaced it."""
    listening.close()
    if not is_listening(path):
        with suppress(OSError):
            path.unlink()


def is_listening(path: Path) -> bool:
    """Whether a process accepts connections on the socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(CONTROL_CONNECT_S)
        try:
            client.connect(str(path))
        except (BlockingIOError, TimeoutError):  # its queue is full, which Linux reports at once (connect(2), EAGAIN)
            return True
        except OSError:
            return False
    return True


def control_sockets(environment: Mapping[str, str]) -> list[Path]:
    """Return the control sockets of all gatepass processes of this user."""
    folders = [folder for folder in dict.fromkeys(control_folders(environment)) if _is_own_folder(folder)]
    return [path for folder in folders for path in sorted(folder.glob("*.sock")) if is_listening(path)]


def _is_own_folder(folder: Path) -> bool:
    """Whether this user or root owns `folder`, and no other user may write to it."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_safe = stat.S_ISDIR(status.st_mode) and not status.st_mode & WRITABLE_BY_OTHERS
    return is_safe and status.st_uid in (os.geteuid(), 0)
