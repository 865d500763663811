"""What the workers of one supervisor inherit: the listening socket, the lifeline, their folder, and its key."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from gatepass.server.folder import SHARED_MEMORY, own_folder
from gatepass.server.listening import Seats

LOG = logging.getLogger("gatepass.server.supervisor")

KEY_BYTES = 32

STOPPING = b"."
"""What the lifeline says before a stop. It is not read but looked at, for all workers have the same end of it."""
STORE = "store"
"""The folder of the tokens that the workers share, within the supervisor's own; absent if they share none."""
CONNECTIONS = "connections"
"""The file, in the same folder, of how many connections each worker holds."""
NOT_SHARED = (
    "the workers' folder is on a disk, and the library that encrypts tokens there is not installed: each worker"
    " fetches its own tokens, and refresh tokens are not shared. Make {} writable, or install the extra `crypto`"
)


@dataclass(frozen=True, slots=True)
class Channel:
    """`lifeline` is the supervisor's end: its close tells the workers that their supervisor is gone.

    `key` encrypts what lies in `folder`; it is empty where that is in memory, which needs none.
    """

    folder: Path
    listening: socket.socket
    lifeline: socket.socket
    lent: socket.socket
    seats: Seats
    key: bytes = field(repr=False)

    def tell_stop(self) -> None:
        """No signal: systemd sends its own to all, and a second one would hurry them."""
        self.lifeline.send(STOPPING)

    @contextmanager
    def descriptors(self) -> Iterator[tuple[int, int, int]]:
        """What a worker inherits, in the order of its `--fds`: listening socket, lifeline, the key to be read once."""
        with _readable(self.key) as key:
            yield self.listening.fileno(), self.lent.fileno(), key


@contextmanager
def channel(listening: socket.socket, shared_memory: str = SHARED_MEMORY) -> Iterator[Channel]:
    """A new one, whose folder goes with the block. Raises NoFolder."""
    with own_folder(shared_memory) as folder:
        is_on_disk = folder.parent != Path(shared_memory)
        if is_on_disk and find_spec("cryptography") is None:
            LOG.warning("tokens_not_shared", extra={"fields": {"reason": NOT_SHARED.format(shared_memory)}})
        else:
            (folder / STORE).mkdir(mode=0o700)
        lifeline, lent = socket.socketpair()
        with lifeline, lent:
            key = secrets.token_bytes(KEY_BYTES) if is_on_disk else b""
            yield Channel(folder, listening, lifeline, lent, Seats(folder / CONNECTIONS), key)


@contextmanager
def _readable(key: bytes) -> Iterator[int]:
    """A descriptor from which `key` can be read once: arguments and environment of a process are for others to see."""
    reading, writing = os.pipe()
    try:
        os.write(writing, key)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)
