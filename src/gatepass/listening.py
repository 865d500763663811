"""The socket that gatepass serves on, and the file descriptors that its connections need."""

from __future__ import annotations

import errno
import math
import os
import resource
import socket

LOOK_EVERY_S = 1.0
TELL_EVERY_S = 60.0
"""One log line in this time while no connection can be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises OSError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.set_inheritable(False)
    except OSError:
        listening.close()
        raise
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def descriptor_limit() -> float:
    """The soft limit of file descriptors of this process (`ulimit -n`)."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return math.inf if soft == resource.RLIM_INFINITY else soft


def has_free_descriptor() -> bool:
    """Whether a connection could be accepted now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


class AcceptWatch:
    """Decides when to look for a free file descriptor, and when to log that there is none.

    It has to be looked for: without one, uvloop closes each new connection and reports nothing (libuv's
    uv__emfile_trick).
    """

    def __init__(self) -> None:
        self._looked_s = self._told_s = -math.inf
        self._failed = 0

    def is_due(self, now_s: float) -> bool:
        """Whether to look now; True at most once in LOOK_EVERY_S."""
        if now_s - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        return True

    def failed(self, now_s: float) -> int | None:
        """There was no free descriptor. Return for how many looks since the last line, if a line is due."""
        self._failed += 1
        if now_s - self._told_s < TELL_EVERY_S:
            return None
        count, self._failed, self._told_s = self._failed, 0, now_s
        return count
