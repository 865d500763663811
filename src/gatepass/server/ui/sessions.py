"""Sessions of the page at /ui: who signed in, with which key, and until when.

The id of a session is a random text in a cookie. gatepass keeps only its SHA-256: in memory, or in a folder that all
workers of one `gatepass serve` share.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec

LIFE_S = 8 * 3600
ID_BYTES = 32
MOST_SESSIONS = 200
"""Cap on sessions, which ends those that end first. Only a key of the role viewer or admin can make one."""


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in. `ends_at_s` is in seconds since the epoch."""

    caller: str
    key_digest: bytes = field(repr=False)
    """The SHA-256 of the key, so that the session ends with it."""
    ends_at_s: float


class SessionStore(Protocol):
    """Keeps sessions by the SHA-256 of their ids, as hexadecimal text."""

    def put(self, name: str, session: Session) -> None:
        """Keep `session` under `name`; raise OSError."""
        ...

    def get(self, name: str) -> Session | None:
        """Return the session `name`, None if there is none."""
        ...

    def remove(self, name: str) -> None:
        """Forget the session `name`, if there is one."""
        ...

    def names(self) -> list[str]:
        """Return the names of all sessions."""
        ...


class MemorySessions:
    """Sessions of one process."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def put(self, name: str, session: Session) -> None:
        self._sessions[name] = session

    def get(self, name: str) -> Session | None:
        return self._sessions.get(name)

    def remove(self, name: str) -> None:
        self._sessions.pop(name, None)

    def names(self) -> list[str]:
        return list(self._sessions)


class FolderSessions:
    """Sessions of all workers, as one file each. The supervisor made the folder around them with mode 0700."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def put(self, name: str, session: Session) -> None:
        new = self._folder / f".{secrets.token_hex(8)}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(session))
        new.rename(self._folder / name)  # so that no worker reads a part of it

    def get(self, name: str) -> Session | None:
        try:
            return msgspec.json.decode((self._folder / name).read_bytes(), type=Session)
        except (OSError, msgspec.DecodeError):
            return None

    def remove(self, name: str) -> None:
        with suppress(OSError):
            (self._folder / name).unlink()

    def names(self) -> list[str]:
        return [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]


class Sessions:
    """The sessions of a gatepass. `wall_s` is in seconds since the epoch."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def begin(self, caller: str, key_digest: bytes, wall_s: float) -> str:
        """Make a session, and return its id."""
        ends_at_s = dict(self._ends(wall_s))
        for name in sorted(ends_at_s, key=ends_at_s.__getitem__)[: max(0, len(ends_at_s) - MOST_SESSIONS + 1)]:
            self._store.remove(name)
        session_id = secrets.token_urlsafe(ID_BYTES)
        self._store.put(_name(session_id), Session(caller, key_digest, wall_s + LIFE_S))
        return session_id

    def find(self, session_id: str, wall_s: float) -> Session | None:
        """Return the session with this id, None if it has ended or is unknown."""
        session = self._store.get(_name(session_id))
        return session if session is not None and wall_s < session.ends_at_s else None

    def end(self, session_id: str) -> None:
        self._store.remove(_name(session_id))

    def _ends(self, wall_s: float) -> Iterator[tuple[str, float]]:
        """Yield the name and the end of each session, and remove those that have ended."""
        for name in self._store.names():
            session = self._store.get(name)
            if session is None or session.ends_at_s <= wall_s:
                self._store.remove(name)
            else:
                yield name, session.ends_at_s


def _name(session_id: str) -> str:
    # by its digest: neither the folder nor the time of the look-up shows a part of an id
    return sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()
