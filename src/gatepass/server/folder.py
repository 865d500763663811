"""The folder of one supervisor and its workers, and where it can be."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made by mkdtemp, mode 0700
"""A tmpfs: what lies in it never reaches a disk. Containers have one of their own, with a read-only root too."""
PREFIX = "gatepass-"
ALIVE = "alive"
"""A file that the supervisor holds locked; the kernel frees the lock of one that was killed."""


class NoFolder(Exception):
    """There is no place for what the workers share: their sockets, and the tokens that one fetches for all."""


@contextmanager
def own_folder(shared_memory: str = SHARED_MEMORY) -> Iterator[Path]:
    """Make a folder with mode 0700 that is removed when the block ends, and remove those of killed supervisors.

    It is in `shared_memory` if that is writable, else where TMPDIR says, or in /tmp and its like.
    Raises NoFolder, with what to do, if none of them is writable.
    """
    with _made(shared_memory) as name:
        folder = Path(name)
        alive = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX)
            (folder / "new").rename(folder / ALIVE)  # nobody sees it unlocked
            for left in folder.parent.glob(f"{PREFIX}*"):
                _remove_if_left(left)
            yield folder
        finally:
            os.close(alive)


def _made(shared_memory: str) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=PREFIX, dir=shared_memory)
    except OSError:
        pass
    try:
        return tempfile.TemporaryDirectory(prefix=PREFIX)
    except OSError as error:  # tempfile raises FileNotFoundError if no folder is usable, a read-only root included
        raise NoFolder(
            f"several workers share a folder, and none can be made in {shared_memory} or the usual folders"
            f" ({error.strerror}): mount a tmpfs on /tmp, name a folder in TMPDIR, or set server.workers: 1"
        ) from error


def _remove_if_left(folder: Path) -> None:
    """Remove `folder` if it is this user's and no supervisor holds its lock: tokens lie in it in clear."""
    try:
        if folder.lstat().st_uid != os.geteuid():
            return
        alive = os.open(folder / ALIVE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # not a supervisor's, another user's, or just being made or removed
        return
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(alive)
