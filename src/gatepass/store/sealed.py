"""A store that lies where others may look: on a disk, on another machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from gatepass.store.seal import Seal
from gatepass.store.seam import Reach, Reading, Store


class SealedStore:
    """`store` with every value encrypted and every name a code. What does not open is not there:
    it is somebody else's, or from before the key was changed."""

    def __init__(self, store: Store, seal: Seal) -> None:
        self._store = store
        self._seal = seal

    @property
    def reach(self) -> Reach:
        return self._store.reach

    async def get(self, names: Collection[str]) -> Reading:
        hidden = {name: self._seal.name(name) for name in names}
        reading = await self._store.get(list(hidden.values()))
        opened = {
            name: value
            for name, code in hidden.items()
            if (closed := reading.values.get(code)) is not None and (value := self._seal.open(name, closed)) is not None
        }
        return replace(reading, values=opened)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        await self._store.put(self._seal.name(name), self._seal.close(name, value), ttl_s)

    async def drop(self, name: str) -> None:
        await self._store.drop(self._seal.name(name))

    async def count(self, name: str, ttl_s: float) -> int:
        return await self._store.count(self._seal.name(name), ttl_s)

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        return await self._store.lease(self._seal.name(name), owner, ttl_s)

    async def release(self, name: str, owner: str) -> None:
        await self._store.release(self._seal.name(name), owner)

    async def aclose(self) -> None:
        await self._store.aclose()
