"""Open the store of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gatepass.clock import Clock
from gatepass.config.model import StoreSettings
from gatepass.store.base import Store
from gatepass.store.folder import FolderStore
from gatepass.store.guarded import GuardedStore
from gatepass.store.memory import MemoryStore

FOLDER_S = 0.25
"""Time limit of one request to the workers' folder. A request takes about 100 µs."""


@dataclass(frozen=True, slots=True)
class WorkerStore:
    """The folder that a supervisor's workers share, and the key that encrypts its values. Empty: no encryption."""

    folder: Path
    key: bytes = field(repr=False)


def open_store(settings: StoreSettings | None, worker_store: WorkerStore | None, clock: Clock) -> Store:
    """Return the configured store, else the store of the supervisor's workers, else the memory of this process.

    It sends no request yet, so an unavailable store does not prevent the start. Raises OSError if a TLS file cannot
    be loaded.
    """
    # Each branch imports what it needs: valkey costs 7 MiB, cryptography 6 MiB.
    if settings is not None:
        from gatepass.store.encrypted import EncryptedStore
        from gatepass.store.valkey import ValkeyStore

        keys = [key.reveal().encode() for key in settings.encryption_keys]
        encrypted = EncryptedStore(ValkeyStore(settings, clock), *keys)
        place = {"through": settings.url, "key_prefix": settings.key_prefix, "key_id": encrypted.key_id}
        return GuardedStore(encrypted, clock, settings.timeout_s, place, encrypted)
    if worker_store is None:
        return MemoryStore(clock)
    store: Store = FolderStore(worker_store.folder, clock)
    if worker_store.key:
        from gatepass.store.encrypted import EncryptedStore

        store = EncryptedStore(store, worker_store.key)
    return GuardedStore(store, clock, FOLDER_S, {"through": "the folder of the workers"})
