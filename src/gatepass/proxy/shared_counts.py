"""SharedCounts: limits that several processes count together on a Valkey or Redis server.

A script on the server decides, by the server's clock. One task sends the waiting requests and changes in one round
trip, and those that came in the meantime in the next one, so the server learns them in order. The process counts its
use too. It decides by that, and by the server's last refusals, while the server does not reply, and adds its use when
the server is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count, islice

import msgspec

from gatepass.cancel import Tasks, timeout
from gatepass.clock import Clock, sleep, wait_at_most
from gatepass.policy.limits import (
    CONCURRENT,
    END_USER,
    MOST_SUBJECTS,
    NO_REFUSAL,
    NOTHING,
    Amounts,
    Counts,
    Limit,
    Refused,
    StoreRefusal,
    Taken,
)
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import GuardedStore
from gatepass.store.limits import LEASE_S, MINUTE_S, NO_LIMIT, SCRIPT, Entry, command, read

LOG = logging.getLogger("gatepass.limits")

RENEW_S = 10.0
RETRY_S = 1.0
FLUSH_S = 1.0
"""How long the end of a process may wait until the server has the last counts."""
DATE_KEPT_S = 3_600
"""How long a date is kept after its end: clocks differ."""
AT_ONCE = 64
"""The requests of one round trip, and the changes."""


class _Part(msgspec.Struct, eq=False, gc=False):
    """The part of the server's clock in which it will count what this process took without it: "" until then."""

    of: str = ""


Place = str | _Part
"""The key of a count at the server: a part of its clock, a date or a lease."""
Owed = dict[tuple[Limit, Place], int]


class _Asked(msgspec.Struct, eq=False):
    """A question to the server: of a request that waits for a decision, or, with NOTHING, of an operator."""

    limits: Sequence[Limit]
    amounts: Amounts
    places: Sequence[str]
    answer: asyncio.Future[Taken | Refused | None]
    """None for an operator, and if the server did not reply."""


class SharedCounts(Counts):
    """The Counts of processes that share a store. The inherited ones are those of this process alone."""

    def __init__(self, store: GuardedStore, clock: Clock) -> None:
        super().__init__()
        self._store, self._clock = store, clock
        self._ids, self._process = count(), secrets.token_hex(8)
        self._names: dict[tuple[str, ...], str] = {}
        self._owed: Owed = {}
        """What the server does not know yet."""
        self._parts: dict[tuple[str, ...], _Part] = {}
        """The place in `_owed` of each limit whose part the server decides when it receives the amount."""
        self._leases: dict[Place, Limit] = {}
        """The requests in progress that have one."""
        self._renewed: deque[Place] = deque()
        """The leases that are renewed next, those too that have ended meanwhile."""
        self._asked: deque[_Asked] = deque()
        self._renew_s = -math.inf
        self._wake, self._sending, self._tasks = asyncio.Event(), asyncio.Lock(), Tasks()

    def start(self) -> None:
        def note_bug(error: BaseException) -> None:
            LOG.error("limits_task_failed", exc_info=error)

        self._tasks.keep(self._send_forever, "limits", note_bug, lambda: sleep(self._clock, RETRY_S))

    async def aclose(self) -> None:
        async def flush() -> None:
            while self._owed and self.fault is None:
                await self._send()

        with suppress(StoreUnavailable):
            await timeout(self._clock, FLUSH_S, flush(), StoreUnavailable("too late"))
        await self._tasks.aclose()

    def prune(self, now_s: float) -> None:
        super().prune(now_s)
        self._names.clear()
        self._parts.clear()

    async def admit(self, limits: Sequence[Limit], amounts: Amounts, now_s: float) -> Taken | Refused:
        if limits and self.fault is None and (answer := await self._ask(limits, amounts)) is not None:
            return answer
        waits = [Refused(limit, limit.refused_s(amounts[limit.unit], now_s)) for limit in limits]
        longest = max(waits, key=lambda one: one.wait_s, default=None)
        return self.take(limits, amounts, now_s) if longest is None or longest.wait_s <= 0 else longest

    def take(
        self, limits: Sequence[Limit], amounts: Amounts, now_s: float, *, is_forced: bool = False
    ) -> Taken | Refused:
        """Count in this process, and let the server count it later."""
        result = super().take(limits, amounts, now_s, is_forced=is_forced)
        if isinstance(result, Taken):
            result.places = places = [self._place(limit) for limit in limits]
            for limit, place in zip(limits, places, strict=True):
                self._owe(limit, place, amounts[limit.unit])
        return result

    def settle(self, taken: Taken, used: Amounts, now_s: float) -> None:
        # `places` is empty the second time
        for (limit, _, amount), place in zip(taken.found, taken.places, strict=False):
            more = used[limit.unit] - amount
            self._owe(limit, self._place(limit) if more > 0 else place, more)
        taken.places = ()
        super().settle(taken, used, now_s)

    async def refresh(self, limits: Sequence[Limit]) -> None:
        limits = [limit for limit in limits if limit.owner[0] != END_USER]  # the store does not have them
        for at in range(0, len(limits), AT_ONCE):
            if self.fault is None:
                await self._ask(limits[at : at + AT_ONCE], NOTHING)

    def _place(self, limit: Limit) -> Place:
        """Return the place of an amount that is taken now without asking the server."""
        return self._of(limit) or self._parts.setdefault(limit.key, _Part())

    def _of(self, limit: Limit) -> str:
        """Return the date, a new lease, or "" for the part of the server's clock."""
        if limit.unit == CONCURRENT:
            return f"{self._process}{next(self._ids):x}"
        return str(limit.part(self._clock.now())) if limit.is_calendar else ""

    def _owe(self, limit: Limit, place: Place, more: int) -> None:
        if limit.unit == CONCURRENT:
            self._leases[place] = limit
            if more < 0:
                del self._leases[place]
        if more := self._owed.pop((limit, place), 0) + more:  # else it was given back before the server learned of it
            self._owed[limit, place] = more
            self._wake.set()

    async def _ask(self, limits: Sequence[Limit], amounts: Amounts) -> Taken | Refused | None:
        asked = _Asked(limits, amounts, [*map(self._of, limits)], asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._wake.set()
        try:
            return await asked.answer
        except asyncio.CancelledError:
            # the answer may have arrived in the same turn of the loop
            if not asked.answer.cancelled() and isinstance(taken := asked.answer.result(), Taken):
                self.settle(taken, NOTHING, self._clock.now())
            raise

    async def _send_forever(self) -> None:
        while True:
            if not (self._asked or self._owed or self._renewed or self.fault):
                if self._leases:
                    await wait_at_most(self._wake, max(0.0, self._renew_s - self._clock.now()), self._clock)
                else:
                    await self._wake.wait()
            self._wake.clear()
            if self._clock.now() >= self._renew_s:
                self._renew_s = self._clock.now() + RENEW_S
                self._renewed = deque(self._leases)
            try:
                await self._send()
            except StoreUnavailable:
                self._renew_s = -math.inf
                await sleep(self._clock, RETRY_S)

    async def _send(self) -> None:
        """Send the owed changes and the waiting requests in one round trip. Raises StoreUnavailable."""
        async with self._sending:
            owed: Owed = {key: self._owed.pop(key) for key in [*islice(self._owed, AT_ONCE)]}
            asked = [self._asked.popleft() for _ in range(min(AT_ONCE, len(self._asked)))]
            asked = [one for one in asked if not one.answer.done()]
            for limit, _ in owed:
                self._parts.pop(limit.key, None)
            changes = [self._entry(limit, place, more, None) for (limit, place), more in owed.items()]
            while self._renewed and len(changes) < AT_ONCE:
                if (leased := self._leases.get(lease := self._renewed.popleft())) is not None:
                    changes.append(self._entry(leased, lease, 1, None))
            commands = [changes] if changes or not asked else []
            for one in asked:
                pairs = zip(one.limits, one.places, strict=True)
                commands += [[self._entry(limit, place, one.amounts[limit.unit], limit.most) for limit, place in pairs]]
            found = None
            try:
                replies = await self._store.evaluate(SCRIPT, [command(entries) for entries in commands])
                found = [read(reply, entries) for reply, entries in zip(replies, commands, strict=True)]
            except (StoreUnavailable, ValueError) as error:
                if self.fault is None:
                    LOG.warning("limits_without_store", extra={"fields": {"reason": str(error)}})
                self.fault = str(error)
                raise StoreUnavailable(self.fault) from None
            finally:
                if found is None:
                    self._give_up(owed, asked)
            for _, place in owed:
                if isinstance(place, _Part):
                    place.of = place.of or str(found[0][0])
            for one, (part, uses) in zip(asked, found[len(found) - len(asked) :], strict=True):
                self._answer(one, part, uses)
            # they go before the next request
            if self.fault is not None and len(self._owed) + len(self._renewed) <= AT_ONCE:
                self.fault = None
                LOG.info("limits_with_store")

    def _entry(self, limit: Limit, place: Place, amount: int, most: int | None) -> Entry:
        """Return what the server counts. `most` is None for what it learns of later."""
        if (name := self._names.get(limit.key)) is None:
            if len(self._names) >= MOST_SUBJECTS:
                self._names.clear()
            # a cluster keeps the keys of one hash tag together
            name = self._names[limit.key] = self._store.name_of("/".join(("{limits}", *limit.key)))
        of, at_most = place if isinstance(place, str) else place.of, NO_LIMIT if most is None else most
        if not limit.is_calendar:
            return name, limit.kept, MINUTE_S if limit.span else LEASE_S, at_most, amount, of, 0
        date = int(of)
        if known := limit.use.parts.get(date, 0):  # so the server has a count too, unless it lost it
            known += (limit.others_of == date) * limit.others - (most is None) * max(0, amount)
        life_s = max(0, math.ceil(limit.end_s(date) - self._clock.now())) + DATE_KEPT_S
        return name, limit.kept, life_s, at_most, amount, of, max(0, known)

    def _give_up(self, owed: Owed, asked: Sequence[_Asked]) -> None:
        """Let the process decide alone.

        The server may have the last changes or not, so places that were given back are dropped. All leases are renewed.
        """
        for (limit, place), more in owed.items():
            if more > 0 and limit.unit != CONCURRENT:
                self._owed[limit, place] = self._owed.get((limit, place), 0) + more
        for one in (*asked, *self._asked):
            if not one.answer.done():
                one.answer.set_result(None)
        self._asked.clear()

    def _answer(self, asked: _Asked, part: int, uses: Sequence[tuple[int, float]]) -> None:
        """Count what the server admitted here too."""
        now_s = self._clock.now()
        result: Taken | Refused | None = None
        fits = all(wait_s < 0 for _, wait_s in uses)
        if fits and asked.amounts is not NOTHING:
            result = super().take(asked.limits, asked.amounts, now_s, is_forced=True)
        if isinstance(result, Taken):
            result.places = [place or str(part) for place in asked.places]
            pairs = zip(asked.places, asked.limits, strict=True)
            self._leases.update((place, limit) for place, limit in pairs if limit.unit == CONCURRENT)
        for limit, (used, wait_s) in zip(asked.limits, uses, strict=True):
            limit.note_total(used + fits * asked.amounts[limit.unit], now_s)
            refusal = NO_REFUSAL
            if wait_s >= 0:
                wait_s = wait_s if limit.kept > 1 else limit.wait_s(0, now_s)
                refusal = StoreRefusal(limit.most, asked.amounts[limit.unit], now_s + wait_s)
                if not isinstance(result, Refused) or wait_s > result.wait_s:
                    result = Refused(limit, wait_s)
            if asked.amounts is not NOTHING:
                limit.use.refusal = refusal
        if not asked.answer.done():
            asked.answer.set_result(result)
        elif isinstance(result, Taken):
            self.settle(result, NOTHING, now_s)
