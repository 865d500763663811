"""Open the store of a configuration, and bound the time that each request to it takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gatepass.cancel import CancelScope
from gatepass.clock import Clock, Timer
from gatepass.config.model import StoreSettings
from gatepass.store.base import Store, StoreReading, StoreScope, StoreUnavailable
from gatepass.store.folder import FolderStore
from gatepass.store.memory import MemoryStore

LOG = logging.getLogger("gatepass.store")

T = TypeVar("T")

REST_S = 1.0
"""After a failure no request goes to the store for this long."""


class GuardedStore:
    """Limit each request to `store` to `bound_s`, and fail at once for REST_S after a failure.

    The log reports once that the store is unavailable, and once that it is available again.
    """

    def __init__(self, store: Store, clock: Clock, bound_s: float) -> None:
        self._store = store
        self._clock = clock
        self._bound_s = bound_s
        self._rests_until_s = -math.inf
        self._reason: str | None = None

    @property
    def scope(self) -> StoreScope:
        return self._store.scope

    async def get(self, names: Collection[str]) -> StoreReading:
        return await self._request(lambda: self._store.get(names))

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        await self._request(lambda: self._store.put(name, value, ttl_s))

    async def drop(self, name: str) -> None:
        await self._request(lambda: self._store.drop(name))

    async def count(self, name: str, ttl_s: float) -> int:
        return await self._request(lambda: self._store.count(name, ttl_s))

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        return await self._request(lambda: self._store.lease(name, owner, ttl_s))

    async def release(self, name: str, owner: str) -> None:
        await self._request(lambda: self._store.release(name, owner))

    async def aclose(self) -> None:
        await self._within_bound(self._store.aclose)

    async def _request(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._clock.now() < self._rests_until_s:
            raise StoreUnavailable(self._reason)
        try:
            result = await self._within_bound(work)
        except StoreUnavailable as error:
            if self._reason is None:
                LOG.warning("store_unavailable", extra={"fields": {"reason": str(error)}})
            self._reason = str(error)
            self._rests_until_s = self._clock.now() + REST_S
            raise
        if self._reason is not None:
            self._reason = None
            LOG.info("store_available", extra={"fields": {}})
        return result

    async def _within_bound(self, work: Callable[[], Awaitable[T]]) -> T:
        cancel_scope, timers = CancelScope(), list[Timer]()
        late = StoreUnavailable(f"no answer within {self._bound_s:g} s")

        # Two timers in a row: if the event loop was blocked, the reply may have arrived and be unread
        # when the first timer fires. The second timer leaves time to read it.
        def last_half() -> None:
            timers.append(self._clock.call_later(self._bound_s / 2, lambda: cancel_scope.cancel(late)))

        with cancel_scope:
            timers.append(self._clock.call_later(self._bound_s / 2, last_half))
            try:
                return await work()
            finally:
                for timer in timers:
                    timer.cancel()


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

        shared = EncryptedStore(ValkeyStore(settings, clock), settings.encryption_key.reveal().encode())
        return GuardedStore(shared, clock, settings.timeout_s)
    if worker_store is None:
        return MemoryStore(clock)
    store: Store = FolderStore(worker_store.folder, clock)
    if worker_store.key:
        from gatepass.store.encrypted import EncryptedStore

        store = EncryptedStore(store, worker_store.key)
    return GuardedStore(store, clock, FOLDER_S)
