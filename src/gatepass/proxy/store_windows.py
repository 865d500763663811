"""StoreWindows: limits that several processes count together on a Valkey or Redis server.

A script on the server decides, by the server's clock and with the arithmetic of `policy.windows`. One task sends all
waiting requests in one round trip, and those that came in the meantime in the next one. So the server learns in order
what a process did. The records of the process count too. They decide while the server does not reply.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from itertools import islice

import msgspec

from gatepass.cancel import Tasks, timeout
from gatepass.clock import Clock, sleep, wait_at_most
from gatepass.policy.windows import DAY_PARTS, END_USER, Limit, Refused, Taken, Windows
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import Command, GuardedStore

LOG = logging.getLogger("gatepass.limits")

LEASE_S = 30.0
"""How long the server counts the requests in progress of a process that was killed."""
RENEW_S = 10.0
RETRY_S = 1.0
FLUSH_S = 1.0
"""How long the end of a process may wait until the server has the last counts."""
AT_ONCE = 64
"""The requests of one round trip, and the subjects with changes."""
NO_LIMIT = 10**15
MOST_DIGITS = 16
"""The longest number in a reply of the server: a count, the number of a part, or microseconds."""
MOST_TOKENS = 2**26
"""The most tokens that the server counts of a reservation. A few larger reservations would fill a record."""

SCRIPT = """
local time, key, process, seen = redis.call('TIME'), KEYS[1], ARGV[1], ARGV[2]
local ttl_ms, running = tonumber(ARGV[3]), tonumber(ARGV[4])
local now, PARTS, KEPT, MOST, LEASE = time[1] * 1000000 + time[2], 128, 129, 4294967295, 30000000
local EMPTY = string.rep('\\0', 12 + 4 * KEPT)
local function get(record, part) return (struct.unpack('<I4', record, 13 + 4 * (part % KEPT))) end
local function put(record, part, count)
  local at = 4 * (part % KEPT)
  return record:sub(1, 12 + at) .. struct.pack('<I4', count) .. record:sub(17 + at)
end
local function head_of(record)
  local head, total = struct.unpack('<dI4', record)
  assert(head == head)
  return head, total
end
local names = {'incarnation'}
for at = 5, #ARGV, 5 do names[#names + 1] = ARGV[at] end
local kept, records, reply, fits, damaged = redis.pcall('HMGET', key, unpack(names)), {}, {}, true, 0
if kept.err then
  if not string.find(kept.err, 'WRONGTYPE') then return kept end
  kept, damaged = {}, 1
  if ttl_ms > 0 then redis.call('DEL', key) end
end
local incarnation = kept[1] and string.match(kept[1], '^%d+$') or string.format('%.0f', now)
for at = 2, #names do records[names[at]] = kept[at] end
local function count(record, width, most, cost, part)
  local head, total, wait = 0, 0, -1
  if width > 0 then
    local newest = math.floor(now / width)
    record = record or EMPTY
    head, total = head_of(record)
    if math.abs(newest - head) >= KEPT then record, head, total = EMPTY, newest, 0 end
    for gone = head + 1, newest do
      local left = get(record, gone)
      if left > 0 then record, total = put(record, gone, 0), math.max(0, total - left) end
    end
    head = math.max(head, newest)
    part = tonumber(part) or head
    local over = total + cost - most
    if over > 0 then
      wait = width * PARTS
      for one = head - PARTS, head do
        over = over - get(record, one)
        if over <= 0 then
          wait = (one + KEPT) * width - now
          break
        end
      end
    end
    if cost < 0 and (seen ~= incarnation or math.abs(head - part) > PARTS) then cost = 0 end
    local before = get(record, part)
    local more = math.max(-before, math.min(cost, MOST - total))
    record = struct.pack('<dI4', head, math.max(0, total + more)) .. put(record, part, before + more):sub(13)
  elseif width < 0 then
    local period, known = string.match(part, '(%S+) (%S+)')
    period, known = tonumber(period), tonumber(known)
    local is_new = seen ~= incarnation or not record
    head, total = head_of(record or EMPTY)
    if head < period or head > period + 32 * 256 then head, total = period, 0 end
    if is_new and head == period then total = math.max(total, known) end
    if total + cost > most then wait = 0 end
    if cost < 0 and (seen ~= incarnation or period ~= head) then cost = 0 end
    record = struct.pack('<dI4', head, math.max(0, math.min(total + cost, MOST)))
  else
    local held = {}
    for id, one in pairs(record and cmsgpack.unpack(record) or {}) do
      if one[2] > now then
        held[id] = one
        total = total + one[1]
      end
    end
    local own = held[process] and held[process][1] or 0
    if cost == 0 or not held[process] then total, own = total - own + running, running end
    if total + cost > most then wait = 1000000 end
    held[process] = own + cost > 0 and {own + cost, now + LEASE} or nil
    record = cmsgpack.pack(held)
  end
  return record, total, head, wait
end
for at = 5, #ARGV, 5 do
  local name, width, most, cost, part = unpack(ARGV, at, at + 4)
  width, most, cost = tonumber(width), tonumber(most), tonumber(cost)
  local is_read, record, total, head, wait = pcall(count, records[name], width, most, cost, part)
  if not is_read then
    incarnation, damaged = string.format('%.0f', now), damaged + 1
    record, total, head, wait = count(nil, width, most, cost, part)
  end
  records[name], fits = record, fits and wait < 0
  reply[#reply + 1] = string.format('%.0f %.0f %.0f', total, head, wait)
end
if fits and ttl_ms > 0 then
  local changed = {'incarnation', incarnation}
  for name, record in pairs(records) do
    changed[#changed + 1] = name
    changed[#changed + 1] = record
  end
  redis.call('HSET', key, unpack(changed))
  if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
end
return incarnation .. ' ' .. damaged .. ' ' .. table.concat(reply, ' ')
"""
"""Takes what one request uses of the limits of one subject, or nothing if it does not fit. KEYS[1] is a hash.

For each limit the hash has a record. That of a sliding window has the newest part (8 bytes), the total, and the count
of each part (4 bytes each). That of a day or month has the first two. That of concurrent requests has for each process
their number and the end of its lease. `incarnation` tells a hash from the one that the server has lost.

Arguments: the process, the incarnation that it knows, the milliseconds for which the hash lasts at least (0: nothing is
written), and the requests in progress of the process. Then for each limit its name, the microseconds of a part (0 for
concurrent requests, -1 for a day or month), the limit, the cost, and the part that is lowered ("" for the newest). The
cost of concurrent requests is 1, or 0 to set the number of the process. The part of a day or month is always given,
with the use that the process knows: a new incarnation begins with it.

The reply is the incarnation, how many records were damaged, and for each limit the use before, the newest part, and the
microseconds until it fits, -1 if it does. A damaged record begins again, in a new incarnation.
"""

RUNNING = ("max_concurrent", 0.0, "")


class _Counted(msgspec.Struct, eq=False, gc=False):
    """Where the server counts a request, or the sum of several that it learns of later, for one limit."""

    part: str
    incarnation: str = ""
    """"" while it has not replied."""
    total: int = 0
    wait_s: float = 0.0
    """Below 0 if it fits."""
    is_known: bool = False
    """The use by a reply of the server includes it."""


Change = tuple[str, float, str | _Counted]
"""The name of a limit, the microseconds of its parts, and the part that is lowered."""
Entry = tuple[str, float, int, int, str]


def _width_us(limit: Limit) -> float:
    return -1.0 if limit.is_calendar else limit.width_s * 1e6


def _cost(limit: Limit, tokens: int) -> int:
    return min(tokens, MOST_TOKENS) if limit.counts_tokens else 1


class _Subject:
    __slots__ = ("incarnation", "known", "late", "name", "owner", "running", "ttl_s", "unsent")

    def __init__(self, owner: tuple[str, str], name: str) -> None:
        self.owner, self.name = owner, name
        """Of the hash."""
        self.ttl_s = LEASE_S
        self.incarnation = ""
        self.running = 0
        """The requests in progress here that a concurrency limit counts."""
        self.late: dict[Change, int] = {}
        """What the server does not know yet: one sum for each limit and part."""
        self.unsent: dict[str, _Counted] = {}
        """Where `late` will be counted, by the name of the limit."""
        self.known: dict[str, tuple[int, int]] = {}
        """Of the limits of a day or month, the part and the use by the latest reply."""

    def command(self, process: str, entries: Iterable[Entry], *, reads: bool = False) -> Command:
        ttl_ms = 0 if reads else math.ceil(self.ttl_s * 1000)
        arguments = list[str | float]()
        for name, width_us, most, cost, part in entries:
            if width_us < 0:
                known_part, total = self.known.get(name, (0, 0))
                part = f"{part} {total if known_part == int(part) else 0}"
            arguments += (name, width_us, most, cost, part)
        return self.name, (process, self.incarnation, ttl_ms, self.running, *arguments)

    def take_late(self) -> Iterable[Entry]:
        late, self.late, self.unsent = self.late, {}, {}
        for (name, width_us, part), more in late.items():
            if isinstance(part, _Counted):
                if not self.is_of(part):  # its reply was lost
                    continue
                part = part.part
            yield name, width_us, NO_LIMIT, more, part

    def is_of(self, counted: _Counted) -> bool:
        self.incarnation = self.incarnation or counted.incarnation  # a reload has forgotten it
        return bool(counted.incarnation) and counted.incarnation == self.incarnation


class _Asked(msgspec.Struct, eq=False):
    """A question to the server: of a request that waits for a decision, or of an operator who reads the use."""

    limits: Sequence[Limit]
    tokens: int
    reads: bool
    answer: asyncio.Future[Taken | Refused | None]
    """None for an operator, and if the server did not reply."""

    def by_owner(self) -> Iterable[list[Limit]]:
        found: dict[tuple[str, str], list[Limit]] = {}
        for limit in self.limits:
            found.setdefault(limit.owner, []).append(limit)
        return found.values()

    def cost(self, limit: Limit) -> int:
        return 0 if self.reads else _cost(limit, self.tokens)

    def most(self, limit: Limit) -> int:
        return NO_LIMIT if self.reads else limit.most


class StoreWindows(Windows):
    """The Windows of a process that counts together with others. Its records are those of the process alone."""

    def __init__(self, store: GuardedStore, clock: Clock) -> None:
        super().__init__()
        self._store, self._clock = store, clock
        self._process = secrets.token_hex(8)
        self._probe = _Subject(("", ""), store.name_of("limits/v1"))
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._changed: dict[_Subject, None] = {}
        self._asked: deque[_Asked] = deque()
        self._running = 0
        self._renew_s = -math.inf
        self._wake, self._sending, self._tasks = asyncio.Event(), asyncio.Lock(), Tasks()

    def start(self) -> None:
        def note_bug(error: BaseException) -> None:
            LOG.error("limits_task_failed", exc_info=error)

        self._tasks.keep(self._send_forever, "limits", note_bug, lambda: sleep(self._clock, RETRY_S))

    async def aclose(self) -> None:
        async def flush() -> None:
            while self._changed and self.fault is None:
                await self._send()

        with suppress(StoreUnavailable):
            await timeout(self._clock, FLUSH_S, flush(), StoreUnavailable("too late"))
        await self._tasks.aclose()

    def prune(self, now_s: float) -> None:
        super().prune(now_s)
        first = (date.fromtimestamp(self._clock.wall()).toordinal() - 32) * DAY_PARTS
        self._subjects = {
            owner: one
            for owner, one in self._subjects.items()
            if one.running or one in self._changed or any(part > first for part, _ in one.known.values())
        }

    async def admit(self, limits: Sequence[Limit], tokens: int, now_s: float) -> Taken | Refused:
        if limits and self.fault is None and (answer := await self._ask(limits, tokens)) is not None:
            return answer
        return self.take(limits, tokens, now_s)

    def take(self, limits: Sequence[Limit], tokens: int, now_s: float, *, is_forced: bool = False) -> Taken | Refused:
        """Count by the records of this process, and tell the server later."""
        result = super().take(limits, tokens, now_s, is_forced=is_forced)
        if isinstance(result, Taken):
            for limit in limits:
                limit.others = 0
                self._change(limit, _cost(limit, tokens))
            result.shared = found = list[_Counted]()
            for limit in limits:
                unsent, part = self._subject(limit).unsent, self._part(limit)
                if (counted := unsent.get(limit.setting)) is None or counted.part != part:
                    counted = unsent[limit.setting] = _Counted(part)
                found.append(counted)
        return result

    def settle(self, taken: Taken, tokens: int | None, now_s: float) -> None:
        shared, taken.shared = taken.shared, ()
        # `shared` is empty the second time
        for (limit, *_), counted in zip(taken.found, shared, strict=False):
            if limit.counts_tokens:
                self._change(limit, (tokens or 0) - _cost(limit, taken.tokens), counted)
            elif tokens is None or not limit.width_s:
                self._change(limit, -1, counted)
        super().settle(taken, tokens, now_s)

    async def refresh(self, limits: Sequence[Limit]) -> None:
        limits = [limit for limit in limits if limit.owner[0] != END_USER]  # the store does not have them
        for at in range(0, len(limits), AT_ONCE):
            if self.fault is None:
                await self._ask(limits[at : at + AT_ONCE], 0, reads=True)

    def _subject(self, limit: Limit) -> _Subject:
        if (subject := self._subjects.get(limit.owner)) is None:
            name = self._store.name_of("/".join(("limits/v1", *limit.owner)))
            subject = self._subjects[limit.owner] = _Subject(limit.owner, name)
        subject.ttl_s = max(subject.ttl_s, limit.window[1] + limit.width_s)
        return subject

    def _part(self, limit: Limit) -> str:
        return str(limit.part(self._clock.now())) if limit.is_calendar else ""

    def _change(self, limit: Limit, more: int, counted: _Counted | None = None) -> None:
        """Let the server count `more`. A refund lowers the part of `counted`."""
        subject, part = self._subject(limit), self._part(limit)
        change: Change = limit.setting, _width_us(limit), part
        if not limit.width_s:
            subject.running += more
            self._running += more
            change, more = RUNNING, 0
        elif more < 0 and counted is not None:
            is_unsent = subject.unsent.get(limit.setting) is counted
            if not is_unsent and counted.incarnation:
                if not subject.is_of(counted):
                    return
                if counted.is_known and limit.setting in subject.known:
                    known_part, total = subject.known[limit.setting]
                    subject.known[limit.setting] = known_part, total + more
            # the reply that names the part comes before the next round trip
            change = limit.setting, _width_us(limit), counted.part if is_unsent or counted.incarnation else counted
        elif more <= 0:
            return
        subject.late[change] = subject.late.get(change, 0) + more
        self._changed[subject] = None
        self._wake.set()

    async def _ask(self, limits: Sequence[Limit], tokens: int, *, reads: bool = False) -> Taken | Refused | None:
        asked = _Asked(limits, tokens, reads, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._wake.set()
        try:
            return await asked.answer
        except asyncio.CancelledError:
            # the answer may have arrived in the same turn of the loop
            if not asked.answer.cancelled() and isinstance(taken := asked.answer.result(), Taken):
                self.settle(taken, None, self._clock.now())
            raise

    async def _send_forever(self) -> None:
        while True:
            if not (self._asked or self._changed or self.fault):
                if self._running:
                    await wait_at_most(self._wake, max(0.0, self._renew_s - self._clock.now()), self._clock)
                else:
                    await self._wake.wait()
            self._wake.clear()
            if self._clock.now() >= self._renew_s:
                self._renew_s = self._clock.now() + RENEW_S
                for subject in self._subjects.values():
                    if subject.running:
                        subject.late[RUNNING] = 0
                        self._changed[subject] = None
            try:
                await self._send()
            except StoreUnavailable:
                self._renew_s = -math.inf
                await sleep(self._clock, RETRY_S)

    async def _send(self) -> None:
        """Send what changed and what is asked, in one round trip. Raises StoreUnavailable."""
        async with self._sending:
            try:
                if self.fault is not None:
                    await self._store.evaluate(SCRIPT, [self._probe.command(self._process, ())])
                await self._exchange()
            except (StoreUnavailable, ValueError, OverflowError) as error:  # the last one: no calendar has such a day
                if self.fault is None:
                    LOG.warning("limits_without_store", extra={"fields": {"reason": str(error)}})
                self.fault = str(error)
                raise StoreUnavailable(self.fault) from None
            if self.fault is not None and len(self._changed) <= AT_ONCE:  # they go before the next request
                self.fault = None
                LOG.info("limits_with_store")

    async def _exchange(self) -> None:
        changed = [(subject, subject.late, subject.unsent) for subject in islice(self._changed, AT_ONCE)]
        asked = [self._asked.popleft() for _ in range(min(AT_ONCE, len(self._asked)))]
        groups = [(one, limits) for one in asked if not one.answer.done() for limits in one.by_owner()]
        sent, found = [(subject, [*subject.take_late()], False) for subject, *_ in changed], None
        for subject, *_ in changed:
            del self._changed[subject]
        # after the changes, which set the requests in progress
        for one, limits in groups:
            own = [(of.setting, _width_us(of), one.most(of), one.cost(of), self._part(of)) for of in limits]
            sent.append((self._subject(limits[0]), own, one.reads))
        commands = [subject.command(self._process, entries, reads=reads) for subject, entries, reads in sent]
        try:
            replies = await self._store.evaluate(SCRIPT, commands) if commands else []
            read = [_read(reply, *one) for reply, one in zip(replies, sent, strict=True)]
            for (_, limits), uses in zip(groups, read[len(changed) :], strict=True):
                for limit, use in zip(limits, uses, strict=True):
                    if use.wait_s >= 0 and limit.is_calendar:
                        use.wait_s = max(0.0, limit.period(int(use.part))[1] - self._clock.now())
            found = read
        finally:
            if found is None:
                self._give_up(changed, asked)
        for (_, _, unsent), (_, entries, _), uses in zip(changed, sent, found, strict=False):
            for (name, _, _, more, part), use in zip(entries, uses, strict=True):
                if more > 0 and (counted := unsent.get(name)) is not None and counted.part == part:
                    counted.incarnation, counted.part = use.incarnation, use.part
        by_asked: dict[_Asked, dict[Limit, _Counted]] = {one: {} for one in asked}
        for uses, (one, limits) in zip(found[len(changed) :], groups, strict=True):
            by_asked[one].update(zip(limits, uses, strict=True))
        for one, of_limits in by_asked.items():
            self._answer(one, of_limits)

    def _give_up(
        self, changed: Iterable[tuple[_Subject, dict[Change, int], dict[str, _Counted]]], asked: Iterable[_Asked]
    ) -> None:
        """Let the process decide alone. The server may have what was sent or not: the refunds are dropped."""
        for subject, late, unsent in changed:
            self._changed[subject] = None
            subject.unsent = {**unsent, **subject.unsent}
            for change, more in late.items():
                if more >= 0:
                    subject.late[change] = subject.late.get(change, 0) + more
        for one in (*asked, *self._asked):
            if not one.answer.done():
                one.answer.set_result(None)
        self._asked.clear()

    def _answer(self, asked: _Asked, uses: Mapping[Limit, _Counted]) -> None:
        """Count what the server admitted here too, or give back what other subjects than the refusing one took."""
        now_s = self._clock.now()
        result: Taken | Refused | None = None
        refused = [Refused(limit, use.wait_s) for limit, use in uses.items() if use.wait_s >= 0]
        refusing = {one.limit.owner for one in refused}
        for limit, use in uses.items():
            subject, total = self._subject(limit), use.total + asked.cost(limit) * (limit.owner not in refusing)
            subject.incarnation = use.incarnation
            if limit.is_calendar:
                subject.known[limit.setting] = int(use.part), total
            if asked.reads or refused:
                limit.others, limit.others_of = use.total - limit.used(now_s), int(use.part) // DAY_PARTS
            if refused and limit.owner not in refusing:
                back = -asked.cost(limit) if limit.width_s else 0
                self._change(limit, back, use)
        if refused:
            result = max(refused, key=lambda one: one.wait_s)
        elif not asked.reads and uses:
            result = super().take(asked.limits, asked.tokens, now_s, is_forced=True)
            if isinstance(result, Taken):
                result.shared = [uses[limit] for limit in asked.limits]
                for limit, use in uses.items():
                    limit.note_total(use.total + asked.cost(limit), int(use.part))
                    if not limit.width_s:
                        self._subject(limit).running += 1
                        self._running += 1
        if not asked.answer.done():
            asked.answer.set_result(result)
        elif isinstance(result, Taken):
            self.settle(result, None, now_s)


def _read(reply: bytes, subject: _Subject, entries: Sequence[Entry], _reads: bool) -> list[_Counted]:
    incarnation, damaged, *words = reply.decode().split()
    if any(len(word) > MOST_DIGITS for word in (damaged, *words)):
        raise ValueError("The store replied a number that is too large.")
    if int(damaged):
        LOG.warning("limits_record_damaged", extra={"fields": {"of": "/".join(subject.owner)}})
    replied = zip(entries, words[::3], words[1::3], words[2::3], strict=True)
    return [
        _Counted(str(int(part)), incarnation, int(total), int(wait_us) / 1e6, is_known=True)
        for _, total, part, wait_us in replied
    ]
