"""What the workers of one supervisor inherit: the listening socket, the lifeline, their folder, and its key."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gatepass.store.seal import KEY_BYTES
from gatepass.supervisor.folder import own_folder

STOPPING = b"."
"""What the lifeline says before a stop. It is not read but looked at, for all workers have the same end of it."""
STORE = "store"
"""The folder of what the workers share, within the supervisor's own; encrypted with a key that only they have."""


@dataclass(frozen=True, slots=True)
class Channel:
    """`lifeline` is the supervisor's end: its close tells the workers that their supervisor is gone."""

    folder: Path
    listening: socket.socket
    lifeline: socket.socket
    lent: socket.socket
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
def channel(listening: socket.socket) -> Iterator[Channel]:
    """A new one, whose folder goes with the block. Raises NoFolder."""
    with own_folder() as name:
        folder = Path(name)
        (folder / STORE).mkdir(mode=0o700)
        lifeline, lent = socket.socketpair()
        with lifeline, lent:
            yield Channel(folder, listening, lifeline, lent, secrets.token_bytes(KEY_BYTES))


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
