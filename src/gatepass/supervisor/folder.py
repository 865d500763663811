"""The folder of one supervisor and its workers, and where it can be."""

from __future__ import annotations

import tempfile

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made by mkdtemp, mode 0700
"""A tmpfs: what lies in it never reaches a disk. Containers have one of their own, with a read-only root too."""


class NoFolder(Exception):
    """There is no place for what the workers share: their sockets, and the tokens that one fetches for all."""


def own_folder(shared_memory: str = SHARED_MEMORY) -> tempfile.TemporaryDirectory[str]:
    """Make a folder with mode 0700 that is removed when its block ends.

    It is in `shared_memory` if that is writable, else where TMPDIR says, or in /tmp and its like.
    Raises NoFolder, with what to do, if none of them is writable.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="gatepass-", dir=shared_memory)
    except OSError:
        pass
    try:
        return tempfile.TemporaryDirectory(prefix="gatepass-")
    except OSError as error:  # tempfile raises FileNotFoundError if no folder is usable, a read-only root included
        raise NoFolder(
            f"several workers share a folder, and none can be made in {shared_memory} or the usual folders"
            f" ({error.strerror}): mount a tmpfs on /tmp, name a folder in TMPDIR, or set server.workers: 1"
        ) from error
