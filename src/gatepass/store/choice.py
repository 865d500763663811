"""Which store a process uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gatepass.config.store import StoreSettings
from gatepass.runtime import Clock
from gatepass.store.folder import FolderStore
from gatepass.store.guard import GuardedStore
from gatepass.store.memory import MemoryStore
from gatepass.store.seam import Store

FOLDER_S = 0.25
"""For one request of the workers' store, which takes some 100 µs."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """The folder that a supervisor's workers share, and the key of its values; an empty key means in clear."""

    folder: Path
    key: bytes = field(repr=False)


def open_store(settings: StoreSettings | None, inherited: Inheritance | None, clock: Clock) -> Store:
    """The configured store, else the one of the supervisor's workers, else memory of this process's own.

    Asks nobody yet: a store that is down stops no start. Raises OSError where a file of TLS cannot be loaded.
    """
    # each branch imports what it needs: valkey costs 7 MiB, cryptography 6
    if settings is not None:
        from gatepass.store.encrypted import EncryptedStore
        from gatepass.store.valkey import ValkeyStore

        shared = EncryptedStore(ValkeyStore(settings, clock), settings.encryption_key.reveal().encode())
        return GuardedStore(shared, clock, settings.timeout_s)
    if inherited is None:
        return MemoryStore(clock)
    store: Store = FolderStore(inherited.folder, clock)
    if inherited.key:
        from gatepass.store.encrypted import EncryptedStore

        store = EncryptedStore(store, inherited.key)
    return GuardedStore(store, clock, FOLDER_S)
