"""Listening socket and control socket.

Commands and `gatepass serve` share this module, so it imports the standard library only.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

UNSENT_BYTES = 512 * 1024
"""Bytes that the kernel accepts for a client beyond what the client has room for. Accepted sockets inherit this limit.

By default it accepts 4 MiB for a client that does not read, and gatepass reads, parses and writes all of it first.
"""
LAST_DATA_SENT, BYTES_ACKED = 44, 120
"""The offsets of `tcpi_last_data_sent`, in milliseconds, and of `tcpi_bytes_acked` in Linux's struct tcp_info."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which a socket closes with RST: an end of HTTP/1.0 by FIN looks complete."""


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


def sent_to(connection: socket.socket | None) -> tuple[float, int]:
    """Return the time since the kernel sent something to the client, and the bytes that the client acknowledged.

    The kernel sends when the client reads, and it wakes a writer only once half of UNSENT_BYTES is sent. Infinite, and
    0, where it does not say.
    """
    if connection is None:
        return math.inf, 0
    with suppress(OSError, AttributeError, struct.error):  # no TCP, or not Linux
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED + 8)
        silent_ms, acked_bytes = struct.unpack_from("=I72xQ", info, LAST_DATA_SENT)
        return silent_ms / 1000, acked_bytes
    return math.inf, 0


def url_of(listening: socket.socket, scheme: str) -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


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
