"""Windows: how many requests and tokens a subject has used in the last minute, or in this day or month.

`Windows.take` admits a request by all of its limits or by none. `Windows.settle` replaces the reserved tokens by those
that were used. `now_s` is a time of `Clock.now`.

A window has PARTS parts and the current one. The count of a part leaves when the whole part has left the window. So no
span of the window's length has more than the limit, and at least 99 % of the limit can be used. A day or month of the
calendar is one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import msgspec

PARTS = 128
_KEPT = PARTS + 1
_HEAD, _TOTAL, _FIRST = range(3)
"""The words of a record: the number of its newest part, the sum of its counts, and the counts. A record of concurrent
requests has no counts. By `Clock.now`, the number of a part of a minute fits into 32 bits for 60 years."""
RECORD_BYTES = 4 * (_FIRST + _KEPT)
"""524 bytes for each limit of each subject, 21 MB for 10,000 callers with four limits each."""
MOST = 2**32 - 1
DAY_PARTS = 256
"""A part of the calendar has the number of its first day times this: more than PARTS, so no window has two of them."""
_WRONG = 32 * DAY_PARTS
"""A record that is so many parts ahead is from a clock that was wrong, and not from one that was set back a little."""
_EMPTY = memoryview(bytes(4 * _KEPT)).cast("I")

REQUESTS, TOKENS, CONCURRENT = "requests", "tokens", "concurrent"
END_USER = "end_user"


class Limit:
    """One limit of one subject, and the record of what it has used."""

    __slots__ = (
        *("ahead_s", "counts_tokens", "is_calendar", "most", "name", "others", "others_of", "owner", "setting", "unit"),
        *("width_s", "window", "words"),
    )

    def __init__(
        self, owner: tuple[str, str], unit: str, window: tuple[str, int], most: int, *, is_calendar: bool = False
    ) -> None:
        """`owner` is the kind and the name of the subject, `window` the name and the seconds, 0 for concurrency.

        `is_calendar`: the window is a day or a month of the calendar, in UTC.
        """
        self.owner = owner
        self.unit = unit
        self.window = window
        self.most = most
        self.is_calendar = is_calendar
        self.ahead_s = 0.0
        """How far the wall clock is ahead of `Clock.now`. Set it before a use of a limit of the calendar."""
        self.counts_tokens = unit == TOKENS
        self.width_s = window[1] / PARTS
        """Exact in binary for a minute."""
        self.name = f"{owner[0]}-{unit}-{window[0]}" if window[1] else f"{owner[0]}-{unit}"
        self.setting = f"{unit}.{window[0]}" if window[1] else "max_concurrent"
        self.words = memoryview(bytearray(RECORD_BYTES)).cast("I")
        self.others = 0
        """What the processes that share a store used, beyond the record, by the latest reply of the store."""
        self.others_of = 0
        """The first day of the period for which `others` of a day or month is true."""

    @property
    def key(self) -> tuple[str, ...]:
        """The key of its record, without the limit itself: a reload that changes the limit keeps the use."""
        return (*self.owner, self.unit, self.window[0])

    @property
    def subject(self) -> tuple[str, str]:
        """The owner as operators know it: that of an end user has the name of the caller alone."""
        kind, name = self.owner
        return (kind, name.partition("/")[0]) if kind == END_USER else self.owner

    @property
    def left(self) -> int:
        """How much was left at the last `take`."""
        return max(0, self.most - self.words[_TOTAL] - self.others)

    def note_total(self, total: int, part: int) -> None:
        """Note that all processes which share a store have used `total` at `part`, with what the record counts."""
        self.others, self.others_of = total - self.words[_TOTAL], part // DAY_PARTS

    def part(self, now_s: float) -> int:
        """Return the number of the part that counts at `now_s`; 0 for concurrency."""
        if not self.is_calendar:
            return int(now_s / self.width_s) if self.width_s else 0
        day = datetime.fromtimestamp(now_s + self.ahead_s, UTC).date()
        return (day if self.window[0] == "day" else day.replace(day=1)).toordinal() * DAY_PARTS

    def period(self, part: int) -> tuple[str, float]:
        """Return the day or month of a part of the calendar as a text that sorts, and its end by `Clock.now`."""
        first, is_day = date.fromordinal(part // DAY_PARTS), self.window[0] == "day"
        following = first + timedelta(days=1) if is_day else (first + timedelta(days=31)).replace(day=1)
        end_s = datetime.combine(following, time(), UTC).timestamp() - self.ahead_s
        return first.isoformat()[: None if is_day else -3], end_s

    def used(self, now_s: float) -> int:
        """Return what counts now, without a change of the record."""
        if not self.width_s:
            return self.words[_TOTAL]
        head, part = self.words[_HEAD], self.part(now_s)
        if self.is_calendar:  # a scrape asks for all callers
            return self.words[_TOTAL] if head >= part else 0
        return sum(self.words[_FIRST + at % _KEPT] for at in range(max(head, part) - PARTS, head + 1))

    def wait_s(self, cost: int, now_s: float) -> float:
        """Return the time until `cost` fits, if nothing else is taken; 1 s for a place of a concurrent request."""
        if not self.width_s:
            return 1.0
        words = self.words
        over, head = words[_TOTAL] + cost - self.most, words[_HEAD]
        if self.is_calendar:
            return self.period(head)[1] - now_s
        for at in range(head - PARTS, head + 1):
            over -= words[_FIRST + at % _KEPT]
            if over <= 0:
                return (at + _KEPT) * self.width_s - now_s
        return self.window[1]

    def advance(self, now_s: float) -> int:
        """Forget the parts that have left the window. Return the number of the newest part, which counts now.

        If the wall clock was set back, it is not the part of `now_s`.
        """
        words = self.words
        if not self.width_s:
            return 0
        part, head = self.part(now_s), words[_HEAD]
        if part <= head <= part + _WRONG:
            return head
        if part - head > PARTS:
            words[_FIRST:] = _EMPTY
            words[_TOTAL] = 0
        else:
            total = words[_TOTAL]
            for at in range(head + 1, part + 1):
                if left := words[_FIRST + at % _KEPT]:
                    words[_FIRST + at % _KEPT] = 0
                    total -= left
            words[_TOTAL] = total
        words[_HEAD] = part
        return part

    def add(self, part: int, count: int) -> None:
        """Add `count` to the count of `part`, as far as it fits; a negative one down to 0."""
        words, place = self.words, _FIRST + part % _KEPT
        count = max(-words[place], min(count, MOST - words[_TOTAL]))
        words[place] += count
        words[_TOTAL] += count


class Taken(msgspec.Struct, eq=False):
    """What one request has taken, until it is settled."""

    found: Sequence[tuple[Limit, memoryview, int, int, int]]
    """Each limit, its record, the part that counts the request, the cost, and the use before the request."""
    tokens: int
    shared: Sequence[Any] = ()
    """Of each limit, where a store counts it, see `StoreWindows`."""


class Refused(msgspec.Struct, frozen=True, eq=False):
    """The limit for which a request has to wait longest, and for how long."""

    limit: Limit
    wait_s: float


class Windows:
    """The records of all limits of one process, which outlive a reload."""

    fault: str | None = None
    """Why a configured store does not count the limits."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, ...], Limit] = {}

    def attach(self, limit: Limit) -> Limit:
        """Let `limit` continue with the record of its subject, if there is one."""
        key = limit.key
        if (before := self._limits.get(key)) is not None:
            limit.words = before.words
        self._limits[key] = limit
        return limit

    def prune(self, now_s: float) -> None:
        """Forget the records that count nothing, such as those of subjects that a reload removed."""
        self._limits = {key: limit for key, limit in self._limits.items() if limit.used(now_s)}

    def take(self, limits: Sequence[Limit], tokens: int, now_s: float, *, is_forced: bool = False) -> Taken | Refused:
        """Count one request of `tokens` for all `limits`, or for none if one of them has no room.

        `is_forced`: it is sent in any case, and what does not fit is debt.
        """
        # without calls for a record that another request has just used, because each request with limits pays for it
        found, refused = [], None
        for limit in limits:
            words, width_s = limit.words, limit.width_s
            part = int(now_s / width_s) if width_s and not limit.is_calendar else limit.part(now_s)
            if words[_HEAD] != part:
                part = limit.advance(now_s)
            total, cost = words[_TOTAL], tokens if limit.counts_tokens else 1
            if total + cost > MOST:
                cost = MOST - total
            is_full = total + cost > limit.most and not is_forced
            if is_full and (refused is None or limit.wait_s(cost, now_s) > refused.wait_s):
                refused = Refused(limit, limit.wait_s(cost, now_s))
            found.append((limit, words, part, cost, total))
        if refused is not None:
            return refused
        for limit, words, part, cost, total in found:
            if limit.width_s:
                words[_FIRST + part % _KEPT] += cost
            words[_TOTAL] = total + cost
        return Taken(found, tokens)

    async def admit(self, limits: Sequence[Limit], tokens: int, now_s: float) -> Taken | Refused:
        """Do what `take` does, together with the processes that share a store."""
        return self.take(limits, tokens, now_s)

    async def refresh(self, limits: Sequence[Limit]) -> None:
        """Set `others` of `limits`."""

    def start(self) -> None:
        """Start to use the store, if there is one."""

    async def aclose(self) -> None:
        """End that."""

    def settle(self, taken: Taken, tokens: int | None, now_s: float) -> None:
        """End a request that has used `tokens`, exactly once. None gives back a request that never ran.

        Fewer tokens than reserved lower the part of the reservation. More are debt: they count now, also above the
        limit.
        """
        found, taken.found = taken.found, ()
        for limit, words, part, cost, _ in found:
            if limit.counts_tokens:
                more = (tokens or 0) - cost
            elif limit.width_s and tokens is not None:
                continue
            else:
                more = -1
            newest = limit.part(now_s)
            if words[_HEAD] != newest:
                newest = limit.advance(now_s)
            if not limit.width_s:
                words[_TOTAL] -= 1
            elif more > 0:
                limit.add(newest, more)
            elif newest - part <= PARTS:
                limit.add(part, more)
