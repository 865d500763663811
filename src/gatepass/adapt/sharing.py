"""What one process has learned is known to the others that share its store, and to those that come after it.

Requests only ever look into the Memory of their own process; this goes on behind them.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from gatepass.adapt.ledger import Entries, Ledger, settle
from gatepass.adapt.memory import Memory
from gatepass.config.model import Config
from gatepass.config.upstream import Upstream
from gatepass.runtime import Clock, Tasks, sleep
from gatepass.store.lease import Lease
from gatepass.store.seam import Reach, Reading, Store, StoreUnavailable
from gatepass.store.snapshot import Snapshot

LOG = logging.getLogger("gatepass.lessons")

LOOK_S = 0.5
"""How long what was learned waits for more of it, before it is written together."""
WHOLE_S = 60.0
"""How often the store is read although it told of nothing new: it may have come back empty."""
MARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Names:
    """Where the lessons about one upstream lie. The mark is new with each ledger, and small enough to be followed."""

    ledger: str
    mark: str
    lease: str

    @classmethod
    def of(cls, upstream: str, settings: Upstream) -> Names:
        """Only processes that mean the same server by `upstream` share."""
        place = settings.model_dump_json(include={"base_url", "dialect", "azure", "credential"})
        digest = hashlib.sha256(f"{upstream}\n{place}".encode()).hexdigest()
        return cls(*(f"{kind}/v1/{digest}" for kind in ("lessons", "lessons-mark", "lessons-lease")))


def shared_names(config: Config, reach: Reach) -> Mapping[str, Names]:
    """The upstreams whose lessons are shared over a store that goes as far as `reach`."""
    if reach is Reach.PROCESS:
        return {}
    upstreams = {name: settings for name, settings in config.upstreams.items() if settings.learn == "on"}
    return {name: Names.of(name, settings) for name, settings in upstreams.items()}


class SharedLessons:
    """Keeps `memory` and the store in step, for the upstreams in `names`.

    Where the store is away nothing is lost but the sharing, and it is tried again; where it comes back empty,
    it is filled again.
    """

    def __init__(
        self, memory: Memory, names: Mapping[str, Names], store: Store, snapshot: Snapshot, clock: Clock
    ) -> None:
        self._memory = memory
        self._names = names
        self._store = store
        self._snapshot = snapshot
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._tasks = Tasks()
        self._changes = memory.changes
        self._due: set[str] = set()
        self._epochs: dict[str, str] = {}
        self._last: dict[str, Entries] = {}
        self._marks: dict[str, bytes] = {}

    def start(self) -> None:
        """Begin to read and to write, in the background; wants a running loop."""
        if self._names:
            for upstream, names in self._names.items():
                self._snapshot.follow(names.mark, partial(self._hear, upstream))
            self._tasks.spawn(self._keep(), "lessons in the store")

    async def aclose(self) -> None:
        """What was learned in the last moments is written before it ends."""
        await self._tasks.aclose()
        self._notice()
        if self._due:
            await self._bring_together()

    async def _keep(self) -> None:
        whole_s = -math.inf
        while True:
            if (now := self._clock.now()) >= whole_s:
                self._due.update(self._names)
                whole_s = now + WHOLE_S
            self._notice()
            if self._due:
                await self._bring_together()
            await sleep(self._clock, LOOK_S)

    def _notice(self) -> None:
        if self._memory.changes != self._changes:
            self._changes = self._memory.changes
            self._due.update(self._names)

    def _hear(self, upstream: str, mark: bytes, _: Reading) -> None:
        if mark != self._marks.get(upstream):
            self._due.add(upstream)

    async def _bring_together(self) -> None:
        """Those upstreams that are due; what could not be done stays due."""
        due, self._due = self._due, set()
        done: set[str] = set()
        try:
            with suppress(StoreUnavailable):
                reading = await self._read(due)
                for upstream in due:
                    if self._settled(upstream, reading) is None or await self._write(upstream):
                        done.add(upstream)
        finally:
            self._due |= due - done

    async def _read(self, upstreams: Iterable[str]) -> Reading:
        """One request; the marks come first, so that a ledger is never older than the mark it is known by."""
        names = [self._names[upstream] for upstream in upstreams]
        return await self._store.get([name for one in names for name in (one.mark, one.ledger)])

    def _settled(self, upstream: str, reading: Reading) -> Ledger | None:
        """Takes over and forgets what others have learned and forgotten; the ledger where it has to be written."""
        names, now_s = self._names[upstream], self._clock.now()
        at_s = reading.there_s(now_s)
        there = Ledger.decoded(reading.values.get(names.ledger), upstream)
        self._marks[upstream] = reading.values.get(names.mark, b"")
        there_now: Entries = {} if there is None else there.entries
        last = self._since(upstream, there)
        found = settle(self._own(upstream, now_s, at_s), last, there_now, at_s)
        for one in found.taken:
            self._memory.adopt(replace(one, uses=0), now_s, at_s)
        for key in found.forgotten:
            self._memory.forget(key)
        _tell(upstream, found.taken, found.forgotten)
        if there is not None:
            self._note(upstream, there, last)
        if found.entries == there_now:
            return None
        return Ledger(secrets.token_hex(8) if there is None else there.epoch, found.entries)

    async def _write(self, upstream: str) -> bool:
        """Settles once more, with nobody else writing meanwhile; False where somebody else is at it."""
        names = self._names[upstream]
        lease = Lease(self._store, self._clock, names.lease, self._owner)
        try:
            if not await lease.take():
                return False
            reading = await self._read((upstream,))
            ledger = self._settled(upstream, reading)
            if ledger is not None:
                await self._store.put(names.ledger, ledger.encoded(), ledger.left_s(reading.at_s))
                self._note(upstream, ledger, {})
                await self._put_mark(upstream, ledger.left_s(reading.at_s))
        finally:
            await lease.give_back()
        return True

    async def _put_mark(self, upstream: str, ttl_s: float) -> None:
        self._marks[upstream] = mark = secrets.token_hex(MARK_BYTES).encode()
        await self._store.put(self._names[upstream].mark, mark, ttl_s)

    def _own(self, upstream: str, now_s: float, at_s: float) -> Entries:
        known = self._memory.learned(now_s, at_s)
        return {one.key: one for one in known if one.state == "learned" and one.subject.upstream == upstream}

    def _since(self, upstream: str, there: Ledger | None) -> Entries:
        """What both had last; nothing where the store has lost it since."""
        is_same = there is not None and there.epoch == self._epochs.get(upstream)
        return self._last.get(upstream, {}) if is_same else {}

    def _note(self, upstream: str, ledger: Ledger, before: Entries) -> None:
        """Both have this now, or had it `before`: what one of them lacks later, it has forgotten."""
        self._epochs[upstream] = ledger.epoch
        self._last[upstream] = {
            key: one for key, one in ledger.entries.items() if key in before or self._memory.lesson(key) is not None
        }


def _tell(upstream: str, taken: Collection[object], forgotten: Collection[object]) -> None:
    if taken or forgotten:
        fields = {"upstream": upstream, "taken": len(taken), "forgotten": len(forgotten)}
        LOG.debug("lessons_found", extra={"fields": fields})
