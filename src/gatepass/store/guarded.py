"""`open_store` opens the store of a configuration. `GuardedStore` bounds each of its requests and reports its health.

Every CHECK_S it reads and writes an entry of this process and compares the encryption key with that of the other
processes. So a store that does not share is visible in the log, in /status and in /metrics.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from gatepass.cancel import CancelScope, Tasks
from gatepass.clock import Clock, Timer, sleep
from gatepass.config.model import StoreSettings
from gatepass.store.base import Store, StoreCache, StoreReading, StoreUnavailable

if TYPE_CHECKING:
    from gatepass.store.encrypted import EncryptedStore
    from gatepass.store.valkey import ValkeyStore

LOG = logging.getLogger("gatepass.store")

T = TypeVar("T")

Command = tuple[str, tuple[str | float, ...]]
"""A name in the store, and the arguments of a script for it."""

BOUND_S = 0.25
"""The time for one request to the store. A request without a valid token, or with limits, waits for it."""
REST_S = 1.0
"""After a failure no request goes to the store for this long."""
CHECK_S = 3.0
"""Interval of the checks."""
CANARY_S = 600.0
"""How long the entry of a check lasts. If it disappears earlier, the store has lost its data."""
TAKE_OVER_S = 10.0
"""How long a process with another key waits after the store was emptied, so that the others keep theirs there first."""
REASON_CHARS = 4096
"""Of a reason, which may be the text of a server."""
REPEAT_S = 60.0
SETTLE_S = 10.0

OTHER_KEY = (
    "the other processes encrypt with another key ({theirs}, this process: {ours}), so this process shares nothing."
    " Set the same store.encryption_key in all of them"
)
EMPTIED = (
    "the store lost its entries: it was emptied, restarted without persistence, or evicts entries."
    " The next tokens are shared again. Set maxmemory-policy noeviction, and persistence"
)


class StoreState(StrEnum):
    """UNCHECKED: no request has ended yet. UNREADABLE: it answers, but other processes use another encryption key."""

    UNCHECKED = "unchecked"
    UP = "up"
    DOWN = "down"
    UNREADABLE = "unreadable"


class _Part(StrEnum):
    """What can fail alone: a full server is readable, one with another encryption key works, and one that forbids
    scripts grants no leases.
    """

    READ = "read"
    WRITE = "write"
    LEASE = "lease"
    LIMITS = "limits"
    KEY = "key"


class StoreHealth:
    """The state of a store by its latest requests. Logs its changes, and a fault that lasts every REPEAT_S."""

    def __init__(self, place: Mapping[str, object]) -> None:
        self._place = place
        self._faults: dict[_Part, str] = {}
        self._logged = StoreState.UP
        self._logged_s: dict[str, float] = {}
        self.state = StoreState.UNCHECKED
        self.since_s = -math.inf
        self.emptied = 0
        self.operations = Counter[tuple[str, str]]()
        """How often each operation had each outcome: ok, failed, or skipped after a failure."""

    @property
    def reason(self) -> str | None:
        return next((self._faults[part] for part in _Part if part in self._faults), None)

    def fault(self, part: _Part) -> str | None:
        """Return why `part` fails, None if it works."""
        return self._faults.get(part)

    def note(self, part: _Part, reason: str | None, now: float) -> None:
        """Record that `part` works, or fails for a `reason`."""
        if reason is None:
            self._faults.pop(part, None)
        else:
            self._faults[part] = reason
        state = StoreState.UP
        if self._faults:
            state = StoreState.UNREADABLE if self._faults.keys() == {_Part.KEY} else StoreState.DOWN
        if state is not self.state:
            self.state, self.since_s = state, now
        is_new = state is not self._logged
        if state is StoreState.UP:
            if is_new and self._may_log("store_available", SETTLE_S, now):
                self._logged = state
                LOG.info("store_available", extra={"fields": dict(self._place)})
            return
        event = "store_unreadable" if state is StoreState.UNREADABLE else "store_unavailable"
        if self._may_log(event, SETTLE_S if is_new else REPEAT_S, now):
            self._logged = state
            LOG.warning(event, extra={"fields": {**self._place, "reason": self.reason}})

    def note_emptied(self, now: float) -> None:
        self.emptied += 1
        if self._may_log("store_emptied", SETTLE_S, now):
            LOG.warning("store_emptied", extra={"fields": {**self._place, "reason": EMPTIED}})

    def shown(self, now: float) -> dict[str, Any]:
        """Return the fields for /status."""
        since_s = round(now - self.since_s, 3) if self.state is not StoreState.UNCHECKED else None
        return {**self._place, "state": self.state, "for_s": since_s, "reason": self.reason, "emptied": self.emptied}

    def _may_log(self, event: str, after_s: float, now: float) -> bool:
        if now - self._logged_s.get(event, -math.inf) < after_s:
            return False
        self._logged_s[event] = now
        return True


class GuardedStore:
    """Limit each request to `store` to BOUND_S, and fail at once for REST_S after a failure.

    `place` names the store. `encrypted` is the layer of `store` whose key is compared, and `server` runs scripts.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        place: Mapping[str, object],
        encrypted: EncryptedStore | None = None,
        server: ValkeyStore | None = None,
    ) -> None:
        self._store = store
        self._server = server
        self._clock = clock
        self._encrypted = encrypted
        self._rests_until_s = -math.inf
        self._reason = ""
        self._is_compared = False
        self._other_key_seen_s = -math.inf
        # One entry for each process, so that no process hides from another that the store was emptied.
        self._canary = f"check/v1/{secrets.token_hex(8)}"
        self._canary_until_s = -math.inf
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
                await sleep(self._clock, CHECK_S)

        self.cache.start(self._note_bug)
        self._tasks.keep(checks, "store check", self._note_bug, lambda: sleep(self._clock, CHECK_S))

    async def get(self, names: Collection[str]) -> StoreReading:
        return await self._share(_Part.READ, "get", lambda: self._store.get(names))

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        await self._share(_Part.WRITE, "put", lambda: self._store.put(name, value, ttl_s))

    async def drop(self, name: str) -> None:
        await self._share(_Part.WRITE, "drop", lambda: self._store.drop(name))

    async def count(self, name: str, ttl_s: float) -> int:
        return await self._share(_Part.WRITE, "count", lambda: self._store.count(name, ttl_s))

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        return await self._share(_Part.LEASE, "lease", lambda: self._store.lease(name, owner, ttl_s))

    async def release(self, name: str, owner: str) -> None:
        await self._share(_Part.WRITE, "release", lambda: self._store.release(name, owner))

    def name_of(self, name: str) -> str:
        """Return `name` as scripts get it: hidden."""
        return name if self._encrypted is None else self._encrypted.code(name)

    async def evaluate(self, script: str, commands: Sequence[Command]) -> list[bytes]:
        """Run `script` for each of `commands` in one round trip, and return their replies."""
        if (server := self._server) is None:
            raise StoreUnavailable("it runs no scripts")
        return await self._share(_Part.LIMITS, "limits", lambda: server.evaluate(script, commands))

    async def aclose(self) -> None:
        await self.cache.aclose()
        await self._tasks.aclose()
        await self._within(self._store.aclose)

    async def check(self) -> None:
        """Compare the encryption key with the other processes, then read and write an entry; raise StoreUnavailable."""
        await self._compare_key()
        kept = await self._request(_Part.READ, "get", lambda: self._store.get((self._canary,)))
        # The entry has not expired, so the server lost it: it restarted without its data, was flushed, or evicted it.
        if not kept.values and kept.finished_s < self._canary_until_s:
            self.health.note_emptied(self._clock.now())
        self._canary_until_s = -math.inf  # a put that fails may have replaced the entry or not
        put_s = self._clock.now()
        await self._request(_Part.WRITE, "put", lambda: self._store.put(self._canary, b"", CANARY_S))
        self._canary_until_s = put_s + CANARY_S
        # not by `_request`: after a failure, it refuses the requests that work too
        if self.health.fault(_Part.LEASE) is not None:
            with suppress(StoreUnavailable):
                await self._within(lambda: self._store.lease(f"{self._canary}/lease", self._canary, CHECK_S))
                self.health.note(_Part.LEASE, None, self._clock.now())

    async def _compare_key(self) -> None:
        if (encrypted := self._encrypted) is None:
            return
        found = await self._request(_Part.READ, "get", encrypted.shared_key_id)
        now = self._clock.now()
        if found is not None and found != encrypted.key_id:
            self._other_key_seen_s = now
            self.health.note(_Part.KEY, OTHER_KEY.format(theirs=found, ours=encrypted.key_id), now)
        elif now - self._other_key_seen_s >= TAKE_OVER_S:
            self.health.note(_Part.KEY, None, now)
            await self._request(_Part.WRITE, "put", encrypted.put_key_id)
        self._is_compared = True

    async def _share(self, part: _Part, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Request `work`, unless the other processes have another encryption key."""
        if self._encrypted is not None and not self._is_compared:
            await self._compare_key()
        if (reason := self.health.fault(_Part.KEY)) is not None:
            self.health.operations[operation, "skipped"] += 1
            raise StoreUnavailable(reason)
        return await self._request(part, operation, work)

    def _note_bug(self, error: BaseException) -> None:
        """Show that a background task ended, until the next request to the store succeeds."""
        self.health.note(_Part.READ, "a bug in gatepass: the log has its trace", self._clock.now())
        LOG.error("store_task_failed", extra={"fields": dict(self.place)}, exc_info=error)

    async def _request(self, part: _Part, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        counts = self.health.operations
        if self._clock.now() < self._rests_until_s:
            counts[operation, "skipped"] += 1
            raise StoreUnavailable(self._reason)
        try:
            result = await self._within(work)
        except StoreUnavailable as error:
            counts[operation, "failed"] += 1
            self._reason = self.mask(str(error))[:REASON_CHARS]
            if part is not _Part.LIMITS:  # a server that does not permit the script may do the rest
                self._rests_until_s = self._clock.now() + REST_S
            self.health.note(part, self._reason, self._clock.now())
            raise StoreUnavailable(self._reason) from None
        counts[operation, "ok"] += 1
        self.health.note(part, None, self._clock.now())
        return result

    async def _within(self, work: Callable[[], Awaitable[T]]) -> T:
        cancel_scope, timers = CancelScope(), list[Timer]()
        late = StoreUnavailable(f"no answer within {BOUND_S:g} s")

        # Two timers in a row: if the event loop was blocked, the reply may have arrived and be unread
        # when the first timer fires. The second timer leaves time to read it.
        def last_half() -> None:
            timers.append(self._clock.call_later(BOUND_S / 2, lambda: cancel_scope.cancel(late)))

        with cancel_scope:
            timers.append(self._clock.call_later(BOUND_S / 2, last_half))
            try:
                return await work()
            finally:
                for timer in timers:
                    timer.cancel()


def open_store(settings: StoreSettings | None, clock: Clock) -> GuardedStore | None:
    """Return the configured store, None without one.

    It sends no request, so an unavailable store does not prevent the start. Raises OSError if a TLS file is unusable.
    """
    if settings is None:
        return None
    # imported here: valkey costs 7 MiB, cryptography 6 MiB
    from gatepass.store.encrypted import EncryptedStore
    from gatepass.store.valkey import ValkeyStore

    server = ValkeyStore(settings, clock)
    encrypted = EncryptedStore(server, settings.encryption_key.reveal().encode())
    place = {"through": settings.url, "key_id": encrypted.key_id}
    return GuardedStore(encrypted, clock, place, encrypted, server)
