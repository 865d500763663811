"""Which store a process uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gatepass.config.store import StoreSettings
from gatepass.runtime import Clock
from gatepass.store.folder import FolderStore
from gatepass.store.guard import GuardedStore
from gatepass.store.memory import MemoryStore
from gatepass.store.seal import Seal
from gatepass.store.sealed import SealedStore
from gatepass.store.seam import Store

FOLDER_S = 0.25
"""For one request of the workers' store, which takes some 100 µs."""


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a worker has from its supervisor: the folder that all of them share, and the key to what lies in it."""

    folder: Path
    key: bytes = field(repr=False)


def open_store(settings: StoreSettings | None, inherited: Inheritance | None, clock: Clock) -> Store:
    """The configured store, else the one of the supervisor's workers, else memory of this process's own.

    Asks nobody yet: a store that is down stops no start. Raises OSError where a file of TLS cannot be loaded.
    """
    if settings is not None:
        from gatepass.store.valkey import ValkeyStore  # an extra, which costs 7 MiB

        shared = SealedStore(ValkeyStore(settings, clock), Seal(settings.encryption_key.reveal().encode()))
        return GuardedStore(shared, clock, settings.timeout_s)
    if inherited is not None:
        local = SealedStore(FolderStore(inherited.folder, clock), Seal(inherited.key))
        return GuardedStore(local, clock, FOLDER_S)
    return MemoryStore(clock)
