"""The folder of one supervisor and its workers, and where it can be."""

from __future__ import annotations

import tempfile

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made by mkdtemp, mode 0700
"""Where a container with a read-only root can still write: a tmpfs of its own."""


class NoFolder(Exception):
    """There is no place for what the workers share: their sockets, and the tokens that one fetches for all."""


def own_folder(shared_memory: str = SHARED_MEMORY) -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with its block, mode 0700: where TMPDIR says, or /tmp and its like, or in `shared_memory`.

    Raises NoFolder, with what to do, where none of them can be written to.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="gatepass-")
    except FileNotFoundError:  # what tempfile raises where no folder is usable, a read-only root included
        pass
    except OSError as error:
        raise NoFolder(_no_folder(tempfile.gettempdir(), error)) from error
    try:
        return tempfile.TemporaryDirectory(prefix="gatepass-", dir=shared_memory)
    except OSError as error:
        raise NoFolder(_no_folder(f"the usual folders and {shared_memory}", error)) from error


def _no_folder(places: str, error: OSError) -> str:
    return (
        f"several workers share a folder, and none can be made in {places} ({error.strerror}):"
        " mount a tmpfs on /tmp, name a folder in TMPDIR, or set server.workers: 1"
    )
