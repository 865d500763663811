"""Keep what a `UsageLedger` counted in the store, written behind, so that no request waits for the store.

Each day has SLOTS entries in the store. A process leases the first free slot, and no other process writes its entries.
So an entry is only overwritten with a larger one, and a process that was killed has lost the counts since its last
write at most. The next process takes the free slot and adds to its entries, so restarts add none.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import NoReturn

import msgspec

from gatepass.clock import Clock, sleep
from gatepass.observability.usage_ledger import DAY_S, DAYS, DayUse, Rows, UsageLedger
from gatepass.store.base import Store, StoreScope, StoreUnavailable

WRITE_S = 10.0
SLOTS = 64
"""The processes that write at one time. Others keep their counts until a slot is free."""
LEASE_S = 60.0
"""How long the slot of a killed process is taken. A process renews its lease every WRITE_S."""
KEPT_S = (DAYS + 2) * DAY_S
AT_ONCE = 8
"""Entries that are read together. One has up to 200 KB, and `store.valkey.REPLY_BYTES` limits a reply."""


class Entry(msgspec.Struct):
    owner: str
    rows: Rows


class UsagePart(msgspec.Struct):
    """What one process knows that the store does not have. `fault` is why the store does not have it."""

    days: dict[int, Rows]
    fault: str | None = None


class UsageStore:
    def __init__(self, ledger: UsageLedger, store: Store | None, clock: Clock) -> None:
        self.ledger = ledger
        self._store = store
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._slot: int | None = None
        self._leased_s = 0.0
        self._entries: dict[int, DayUse] = {}
        """What the entries of the slot have, by day."""
        self._is_read: set[int] = set()
        """The days whose entry was read or written since the slot is leased."""
        self._lock = asyncio.Lock()

    @property
    def lasts(self) -> bool:
        """Whether a restart keeps what was counted."""
        return self._store is not None and self._store.scope is StoreScope.NETWORK

    async def run(self) -> NoReturn:
        while True:
            await sleep(self._clock, WRITE_S)
            await self.write()

    async def write(self) -> UsagePart:
        """Write the counts. Return those that could not be written: there is no store, or it failed."""
        fault, store = None, self._store
        async with self._lock:
            try:
                if store is not None and (self.ledger.days or self._slot is not None):
                    slot = await self._leased(store)
                    for day in sorted(self.ledger.days):
                        await self._write_day(store, slot, day)
            except StoreUnavailable as error:
                fault = str(error)
            return UsagePart({day: use.rows() for day, use in self.ledger.days.items()}, fault)

    async def _leased(self, store: Store) -> int:
        asked_s = self._clock.now()
        if self._slot is None or not await store.lease(f"usage/v1/{self._slot}", self._owner, LEASE_S):
            self._slot, self._entries = None, {}
            for slot in range(SLOTS):
                if await store.lease(f"usage/v1/{slot}", self._owner, LEASE_S):
                    self._slot = slot
                    break
            else:
                raise StoreUnavailable(f"{SLOTS} other processes write their use")
            self._is_read.clear()
        elif self._clock.now() - self._leased_s >= LEASE_S:  # the slot may have had another owner meanwhile
            self._is_read.clear()
        self._leased_s = asked_s
        return self._slot

    async def _write_day(self, store: Store, slot: int, day: int) -> None:
        name, entry = f"usage/v1/{day}/{slot}", self._entries.setdefault(day, DayUse())
        if day not in self._is_read:
            found = (await store.get((name,))).values.get(name)
            # an entry of this process may have what a write without an answer has added: it is written again below
            if found is not None and (held := _entry(found)).owner != self._owner:
                entry = self._entries[day] = DayUse()
                entry.add(held.rows)
            self._is_read.add(day)
        whole, unwritten, rest = DayUse(), self.ledger.days.pop(day), True
        whole.add(entry.rows())
        whole.add(unwritten.rows())
        try:
            await store.put(name, msgspec.json.encode(Entry(self._owner, whole.rows())), KEPT_S)
            rest = False
        finally:
            if rest:
                self.ledger.of(day).add(unwritten.rows())
        self._entries = {one: use for one, use in self._entries.items() if one > day - DAYS} | {day: whole}

    async def days(self) -> dict[int, DayUse]:
        """Return what the store has of the last DAYS days, by all processes that share it."""
        today, found = int(self._clock.wall() // DAY_S), dict[int, DayUse]()
        if (store := self._store) is None:
            return found
        for day in range(today - DAYS + 1, today + 1):
            for first in range(0, SLOTS, AT_ONCE):
                names = [f"usage/v1/{day}/{slot}" for slot in range(first, first + AT_ONCE)]
                for value in (await store.get(names)).values.values():
                    found.setdefault(day, DayUse()).add(_entry(value).rows)
                    await asyncio.sleep(0)  # up to 6 ms
        return found

    async def aclose(self) -> None:
        """Write the last counts, and free the slot."""
        await self.write()
        if self._store is not None and self._slot is not None:
            with suppress(StoreUnavailable):  # the lease then expires
                await self._store.release(f"usage/v1/{self._slot}", self._owner)


def _entry(value: bytes) -> Entry:
    try:
        return msgspec.json.decode(value, type=Entry)
    except msgspec.MsgspecError:
        raise StoreUnavailable("an entry of the usage that this version cannot read") from None
