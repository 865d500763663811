"""The memory limit of the container: the cgroup files of Linux, versions 1 and 2.

`gatepass serve` makes the default of `limits.held_bytes` from it, and warns if the settings do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED_BYTES = 1 << 60
"""Version 1 has no word for "unlimited": the file then has a number above this one."""

Read = Callable[[str], str | None]
"""Returns the text of a file, None if it cannot be read."""


@dataclass(frozen=True, slots=True)
class Container:
    """The memory limit of this process's container, and how many workers share it. None: `server.workers`."""

    memory_bytes: int | None
    workers: int | None = None

    @classmethod
    def current(cls, workers: int | None = None) -> Container:
        return cls(memory_limit_bytes(_text), workers)


def memory_limit_bytes(read: Read) -> int | None:
    """Return the smallest memory limit of the cgroups that this process is in, None without one."""
    texts = [(read(name) or "").strip() for name in _limit_files(read("/proc/self/cgroup") or "")]
    found = [int(text) for text in texts if text.isdecimal()]  # and not `max`
    return min((limit for limit in found if limit < UNLIMITED_BYTES), default=None)


def _limit_files(cgroups: str) -> Iterator[str]:
    """Yield the file of each cgroup in the text of /proc/self/cgroup, and of those around it."""
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            root, name = "/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # in a container of version 1 the path is that of the host, and only the root exists
        own = PurePosixPath(root + path)
        yield from (str(folder / name) for folder in (own, *own.parents) if str(folder).startswith(root))


def _text(name: str) -> str | None:
    try:
        return Path(name).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
