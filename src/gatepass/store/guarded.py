"""`open_store` opens the store of a configuration. `GuardedStore` encrypts, and bounds each request to the server.

One circuit: after a failure, whatever it is, the store is not used until a check of REST_S later succeeds. The check
also compares the encryption key with that of the other processes. So a store that does not share is visible in the
log, in /status and in /metrics.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

from gatepass.cancel import CancelScope, Tasks
from gatepass.clock import Clock, Timer, sleep
from gatepass.config.advice import Advice
from gatepass.config.model import StoreSettings
from gatepass.documents import StoreStatus
from gatepass.store.base import Command, Store, StoreCache, StoreReading, StoreUnavailable

if TYPE_CHECKING:
    from gatepass.store.encrypted import StoreKey

LOG = logging.getLogger("gatepass.store")

T = TypeVar("T")

BOUND_S = 0.25
"""The time for one request to the store. A request without a valid token, or with limits, waits for it."""
REST_S = 1.0
"""After a failure the store is tried again after this time."""
CHECK_S = 3.0
"""Interval of the checks of a store that works."""
KEY_NAME = "encryption-key:current"
"""The entry with the id of the key of the processes, in clear."""
KEY_KEPT_S = 15.0
"""How long after the end of the last process with a key another key may take its place."""
TAKE_OVER_S = 10.0
"""How long a process with another key waits after the store was emptied, so that the others keep theirs there first."""
REASON_CHARS = 4096
"""Of a reason, which may be the text of a server."""
SETTLE_S = 10.0
"""The least time between two log lines of one event."""

OTHER_KEY = "the other processes encrypt with another key than this one ({ours}), so this process shares nothing"


class Server(Store, Protocol):
    """A Store that runs scripts, and keeps names and values as they are."""

    async def evaluate(self, script: str, commands: Sequence[Command]) -> list[bytes]:
        """Run `script` for each of `commands` in one round trip, and return their replies."""


class StoreState(StrEnum):
    """UNCHECKED: no check has ended yet. UNREADABLE: it answers, but other processes use another encryption key."""

    UNCHECKED = "unchecked"
    UP = "up"
    DOWN = "down"
    UNREADABLE = "unreadable"


class StoreHealth:
    """The state of a store. Logs its changes."""

    def __init__(self, place: Mapping[str, str]) -> None:
        self._place = place
        self._logged = StoreState.UP
        self._logged_s: dict[str, float] = {}
        self.state = StoreState.UNCHECKED
        self.fault: StoreUnavailable | None = None
        self.since_s = -math.inf
        self.operations = Counter[tuple[str, str]]()
        """How often each operation had each outcome: ok, failed, or skipped after a failure."""

    @property
    def reason(self) -> str | None:
        return None if self.fault is None else str(self.fault)

    def note(self, state: StoreState, fault: StoreUnavailable | None, now: float) -> None:
        self.fault = fault
        if state is not self.state:
            self.state, self.since_s = state, now
        event = {StoreState.UP: "store_available", StoreState.DOWN: "store_unavailable"}.get(state, "store_unreadable")
        if state is not self._logged and now - self._logged_s.get(event, -math.inf) >= SETTLE_S:
            self._logged, self._logged_s[event], is_up = state, now, state is StoreState.UP
            fields = {**self._place} if is_up else {**self._place, "reason": self.reason}
            LOG.log(logging.INFO if is_up else logging.WARNING, event, extra={"fields": fields})

    def shown(self, now: float) -> StoreStatus:
        since_s = round(now - self.since_s, 3) if self.state is not StoreState.UNCHECKED else None
        return StoreStatus(**self._place, state=self.state, for_s=since_s, reason=self.reason)


class GuardedStore:
    """Limits each request to `server` to BOUND_S, encrypts with `key`, and fails at once for REST_S after a failure.

    `place` names the store.
    """

    def __init__(self, server: Server, clock: Clock, place: Mapping[str, str], key: StoreKey) -> None:
        self._server, self._clock, self._key = server, clock, key
        self._tries_s = -math.inf
        """When the store may be checked again."""
        self._checking = asyncio.Lock()
        self._other_key_seen_s = -math.inf
        self._tasks = Tasks()
        self.mask: Callable[[str], str] = str
        """Hides secrets in the reason of a failure, because a server may quote what it received."""
        self.place = place
        self.health = StoreHealth(place)
        self.cache = StoreCache(self, clock)

    def start(self) -> None:
        """Start to check the store, and to read the names that `cache` follows. Requires a running event loop."""

        async def checks() -> None:
            while True:
                with suppress(StoreUnavailable):  # `health` has recorded it
                    await self.check()
                await sleep(self._clock, CHECK_S if self.health.state is StoreState.UP else REST_S)

        self.cache.start(self._note_bug)
        self._tasks.keep(checks, "store check", self._note_bug, lambda: sleep(self._clock, REST_S))

    async def get(self, names: Collection[str]) -> StoreReading:
        codes = {name: self._key.code(name) for name in names}
        reading = await self._share("get", lambda: self._server.get([*codes.values()]))
        stored = {name: reading.values[code] for name, code in codes.items() if code in reading.values}
        opened = {name: self._key.open(name, value) for name, value in stored.items()}
        return replace(reading, values={name: value for name, value in opened.items() if value is not None})

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        await self._share("put", lambda: self._server.put(self._key.code(name), self._key.seal(name, value), ttl_s))

    async def drop(self, name: str) -> None:
        await self._share("drop", lambda: self._server.drop(self._key.code(name)))

    async def count(self, name: str, ttl_s: float) -> int:
        return await self._share("count", lambda: self._server.count(self._key.code(name), ttl_s))

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        return await self._share("lease", lambda: self._server.lease(self._key.code(name), owner, ttl_s))

    async def release(self, name: str, owner: str) -> None:
        await self._share("release", lambda: self._server.release(self._key.code(name), owner))

    def name_of(self, name: str) -> str:
        """Return `name` as scripts get it: hidden."""
        return self._key.code(name)

    async def evaluate(self, script: str, commands: Sequence[Command]) -> list[bytes]:
        """Run `script` for each of `commands` in one round trip, and return their replies."""
        return await self._share("limits", lambda: self._server.evaluate(script, commands))

    async def aclose(self) -> None:
        await self.cache.aclose()
        await self._tasks.aclose()
        await self._within(self._server.aclose)

    async def check(self) -> None:
        """Compare the encryption key with the other processes, and write an entry; raise StoreUnavailable."""
        self._tries_s, ours = self._clock.now() + REST_S, self._key.id
        found, now = await self._request("get", lambda: self._server.get([KEY_NAME])), self._clock.now()
        if found.values.get(KEY_NAME, ours.encode()) != ours.encode():
            self._other_key_seen_s = now
        if now - self._other_key_seen_s < TAKE_OVER_S:
            other_key = StoreUnavailable(OTHER_KEY.format(ours=ours), Advice("store_key"))
            self.health.note(StoreState.UNREADABLE, other_key, now)
        else:
            await self._request("put", lambda: self._server.put(KEY_NAME, ours.encode(), KEY_KEPT_S))
            self.health.note(StoreState.UP, None, self._clock.now())

    async def _share(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Request `work`, after a check if the store does not work yet, or did not for REST_S."""
        if self._needs_check():
            async with self._checking:  # at the start all wait for the first one
                if self._needs_check():
                    await self.check()
        if (fault := self.health.fault) is not None:
            self.health.operations[operation, "skipped"] += 1
            raise StoreUnavailable(fault.why, fault.advice)
        return await self._request(operation, work)

    def _needs_check(self) -> bool:
        state = self.health.state
        return state is StoreState.UNCHECKED or (state is not StoreState.UP and self._clock.now() >= self._tries_s)

    def _note_bug(self, error: BaseException) -> None:
        """Show that a background task ended, until the next check of the store succeeds."""
        bug = StoreUnavailable("a bug in gatepass: the log has its trace")
        self.health.note(StoreState.DOWN, bug, self._clock.now())
        LOG.error("store_task_failed", extra={"fields": dict(self.place)}, exc_info=error)

    async def _request(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        try:
            result = await self._within(work)
        except StoreUnavailable as error:
            now, fault = self._clock.now(), StoreUnavailable(self.mask(error.why)[:REASON_CHARS], error.advice)
            self._tries_s = now + REST_S
            self.health.operations[operation, "failed"] += 1
            self.health.note(StoreState.DOWN, fault, now)
            raise StoreUnavailable(fault.why, fault.advice) from None
        self.health.operations[operation, "ok"] += 1
        return result

    async def _within(self, work: Callable[[], Awaitable[T]]) -> T:
        cancel_scope, timers = CancelScope(), list[Timer]()

        def end() -> None:  # no variable holds the error: its traceback refers to the frame
            cancel_scope.cancel(StoreUnavailable(f"no answer within {BOUND_S:g} s"))

        # Two timers in a row: if the event loop was blocked, the reply may have arrived and be unread
        # when the first timer fires. The second timer leaves time to read it.
        def last_half() -> None:
            timers.append(self._clock.call_later(BOUND_S / 2, end))

        with cancel_scope:
            timers.append(self._clock.call_later(BOUND_S / 2, last_half))
            try:
                return await work()
            finally:
                for timer in timers:
                    timer.cancel()


def open_store(settings: StoreSettings | None, clock: Clock) -> GuardedStore | None:
    """Return the configured store, None without one.

    It sends no request, so gatepass starts even if the store is down. Raises OSError if a TLS file is unusable.
    """
    if settings is None:
        return None
    # imported here: valkey costs 7 MiB, cryptography 6 MiB
    from gatepass.store.encrypted import StoreKey
    from gatepass.store.valkey import ValkeyStore

    key = StoreKey(settings.encryption_key.reveal().encode())
    return GuardedStore(ValkeyStore(settings, clock), clock, {"through": settings.url, "key_id": key.id}, key)
