"""What the store said last of the names that somebody follows."""

from __future__ import annotations

from collections.abc import Callable

from gatepass.cancel import Tasks
from gatepass.clock import Clock, sleep
from gatepass.store.base import Reading, Store, StoreUnavailable

SYNC_S = 0.5
"""How old the news of another process may be. One small request for all names together."""

Tell = Callable[[bytes, Reading], None]
"""Told of each new value, with the reading that brought it; on the event loop, so it neither waits nor raises."""


class Snapshot:
    """Follows names in the background, so that who wants to know asks no store: it is told."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._followed: dict[str, list[Tell]] = {}
        self._seen: dict[str, bytes] = {}
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to read, every SYNC_S; wants a running loop."""
        self._tasks.spawn(self._sync(), "snapshot of the store")

    async def aclose(self) -> None:
        await self._tasks.aclose()

    def follow(self, name: str, tell: Tell) -> Callable[[], None]:
        """Have `tell` told of what is there under `name` and of what comes; the result ends that."""
        self._followed.setdefault(name, []).append(tell)
        self._seen.pop(name, None)
        return lambda: self._leave(name, tell)

    def _leave(self, name: str, tell: Tell) -> None:
        followers = self._followed[name]
        followers.remove(tell)
        if not followers:
            del self._followed[name]
            self._seen.pop(name, None)

    async def _sync(self) -> None:
        while True:
            await sleep(self._clock, SYNC_S)
            if self._followed:
                try:
                    reading = await self._store.get(tuple(self._followed))
                except StoreUnavailable:
                    continue
                news = {name: value for name, value in reading.values.items() if value != self._seen.get(name)}
                for name, value in news.items():
                    for tell in tuple(self._followed.get(name, ())):
                        self._seen[name] = value
                        tell(value, reading)
