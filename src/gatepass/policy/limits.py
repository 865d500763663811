"""Limits: how many requests and tokens a subject has used in the last minute, or in the current day or month.

`Counts.take` reserves an amount under every limit of a request, or under none. `Counts.settle` replaces the reserved
amount with the one that was used. `now_s` is a time of `Clock.now`.

A minute has twelve parts of 5 s. The sum for a minute includes the current part and the twelve before it, so that no
60 s exceed the limit. A calendar span is a single part, numbered by the ordinal of its first day in UTC.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from hashlib import blake2b
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from gatepass.config.use_limits import SPANS, Span

PART_S = 5
KEPT = 13
"""How many parts the sum for a minute includes."""
SET_BACK = 32
"""If the clock is set back by at most so many days, the newest span continues. Beyond that, the clock was wrong."""

REQUESTS, TOKENS, CONCURRENT = "requests", "tokens", "concurrent"
END_USER, JWT = "end_user", "jwt"
"""The kinds of subjects that the configuration does not name."""
Amounts = Mapping[str, int]
"""How much of each unit."""
NOTHING: Amounts = {REQUESTS: 0, TOKENS: 0, CONCURRENT: 0}


class StoreRefusal(msgspec.Struct, frozen=True):
    """A store's refusal: of which limit, of how much, and until when by `Clock.now`."""

    most: int = 0
    amount: int = 0
    until_s: float = -math.inf


NO_REFUSAL = StoreRefusal()


class Use:
    """The use of one limit in one process: the current parts by number, their sum, and the store's last answer."""

    __slots__ = ("__weakref__", "newest", "parts", "refusal", "total")

    def __init__(self) -> None:
        self.newest = self.total = 0
        self.parts: dict[int, int] = {}
        self.refusal = NO_REFUSAL

    def advance(self, part: int, kept: int) -> int:
        """Forget the parts that are too old for a sum with `part`. Return the number of the newest part."""
        if not part <= self.newest <= part + SET_BACK:
            self.newest, self.parts = part, {at: one for at, one in self.parts.items() if part - kept < at <= part}
            self.total = sum(self.parts.values())
        return self.newest

    def add(self, part: int, amount: int) -> None:
        """Add `amount` to a part. A negative amount lowers a part that is not forgotten, to 0 at most."""
        before = self.parts.get(part, 0)
        amount = max(amount, -before)
        self.parts[part] = before + amount
        self.total += amount


class Limit:
    """One limit of one subject, and its use."""

    __slots__ = (
        *("ahead_s", "counts_tokens", "_first_day", "is_calendar", "kept", "most", "name", "others", "others_of"),
        *("owner", "policy", "setting", "span", "span_s", "texts", "unit", "use"),
    )

    def __init__(self, owner: tuple[str, str], unit: str, span: str, most: int) -> None:
        """`owner` is the kind and the name of the subject. `span` is one of SPANS, "" for concurrent requests."""
        self.owner, self.unit, self.span, self.most = owner, unit, span, most
        known = SPANS.get(span, Span(0))
        self.span_s, self._first_day = known.longest_s, known.first_day
        self.is_calendar = known.first_day is not None
        self.kept = 1 if self.is_calendar else KEPT if span else 0
        """How many parts the sum includes: 0 for concurrent requests, whose only part never expires."""
        self.ahead_s = 0.0
        """How far the wall clock is ahead of `Clock.now`. Set it before a use of a limit of the calendar."""
        self.counts_tokens = unit == TOKENS
        self.name = f"{owner[0]}-{unit}-{span}" if span else f"{owner[0]}-{unit}"
        self.policy = f'"{self.name}";q={most};w={self.span_s}' + (';qu="tokens"' if self.counts_tokens else "")
        """Its entry in `ratelimit-policy`, where "requests" is the default."""
        self.texts = b"%d" % most, b"%gs" % self.span_s  # in response fields, written once: formatting is slow
        self.setting = f"{unit}.{span}" if span else "max_concurrent"
        self.use = Use()
        self.others = self.others_of = 0
        """The use by other processes in the store's latest reply, and the calendar part that it belongs to."""

    @property
    def key(self) -> tuple[str, ...]:
        """The key of the use. It omits the amount of the limit, so that a reload that changes it keeps the use."""
        return (*self.owner, self.unit, self.span)

    @property
    def subject(self) -> tuple[str, str]:
        """The owner as operators know it: an end user has the name of its caller alone, a caller that of its row."""
        kind, name = self.owner
        return (kind, name.partition("/")[0]) if kind in (END_USER, JWT) else self.owner

    def part(self, now_s: float) -> int:
        """Return the number of the part at `now_s`; 0 for concurrent requests."""
        if self._first_day is not None:
            return self._first_day(datetime.fromtimestamp(now_s + self.ahead_s, UTC).date()).toordinal()
        return int(now_s / PART_S) if self.span_s else 0

    def end_s(self, part: int) -> float:
        """Return the end of a calendar part as a time of `Clock.now`."""
        following = date.fromordinal(part) + timedelta(seconds=self.span_s)
        following = following if self._first_day is None else self._first_day(following)
        return datetime.combine(following, time(), UTC).timestamp() - self.ahead_s

    def used(self, now_s: float) -> int:
        """Return the current use by this process."""
        self.use.advance(self.part(now_s), self.kept)
        return self.use.total

    def all_used(self, now_s: float) -> int:
        """Return the current use by all processes, according to the store's latest reply."""
        used = self.used(now_s)
        return used if self.is_calendar and self.others_of != self.use.newest else max(0, used + self.others)

    def note_total(self, total: int, now_s: float) -> None:
        """Note that all processes that share a store have used `total`."""
        self.others, self.others_of = total - self.used(now_s), self.use.newest

    def refused_s(self, amount: int, now_s: float) -> float:
        """Return how long the store's refusal holds for `amount`; 0 or less if it does not."""
        last = self.use.refusal
        return last.until_s - now_s if amount >= last.amount and self.most == last.most else 0.0

    def is_used(self, now_s: float) -> bool:
        """Whether a subject that came back without its use would have more than the limit."""
        return self.used(now_s) > 0 or self.use.refusal.until_s > now_s

    def wait_s(self, amount: int, now_s: float) -> float:
        """Return the time until `amount` fits if nothing else is taken; 1 s for concurrent requests."""
        if self.is_calendar:
            return self.end_s(self.use.newest) - now_s
        if not self.span_s:
            return 1.0
        over, wait_s = self.use.total + amount - self.most, 0.0
        for part in sorted(self.use.parts):
            if over > 0:
                over, wait_s = over - self.use.parts[part], (part + KEPT) * PART_S - now_s
        return wait_s if over <= 0 else KEPT * PART_S


class Taken(msgspec.Struct, eq=False):
    """What one request has taken, until it is settled."""

    found: Sequence[tuple[Limit, int, int]]
    """Each limit, the part with the request, and the amount."""
    places: Sequence[Any] = ()
    """The place of each limit in a store (proxy/shared_counts.py)."""

    def split(self, at: int) -> tuple[Taken, Taken]:
        """Return the first `at` limits and the others, each with its amounts: both are settled separately."""
        return Taken(self.found[:at], self.places[:at]), Taken(self.found[at:], self.places[at:])


class Refused(msgspec.Struct, frozen=True, eq=False):
    """The limit that a request must wait for longest, and the wait."""

    limit: Limit
    wait_s: float


class Counts:
    """The use of all limits of one process, which outlives a reload."""

    fault: str | None = None
    """Why a configured store is not used."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, ...], Limit] = {}
        self._uses: WeakValueDictionary[tuple[str, ...], Use] = WeakValueDictionary()
        """Also of limits that `prune` forgot, as long as a request in progress may owe to them."""

    def attach(self, limit: Limit) -> Limit:
        """Let `limit` continue with the use of its subject, if there is one."""
        key = limit.key
        limit.use = self._uses.setdefault(key, limit.use)
        self._limits[key] = limit
        return limit

    def prune(self, now_s: float) -> None:
        """Forget unused limits, such as those of subjects that a reload removed."""
        self._limits = {key: limit for key, limit in self._limits.items() if limit.is_used(now_s)}

    def take(
        self, limits: Sequence[Limit], amounts: Amounts, now_s: float, *, is_forced: bool = False
    ) -> Taken | Refused:
        """Take `amounts` of all `limits`, or of none if one of them has no room.

        `is_forced`: the request is sent in any case, so the excess over a limit becomes debt.
        """
        found, refused = [], None
        for limit in limits:
            use, amount = limit.use, amounts[limit.unit]
            # no method call for a minute, because this runs for each request with limits
            part = int(now_s / PART_S) if limit.kept == KEPT else limit.part(now_s)
            if part != use.newest:
                part = use.advance(part, limit.kept)
            if use.total + amount > limit.most and not is_forced:
                wait_s = limit.wait_s(amount, now_s)
                if refused is None or wait_s > refused.wait_s:
                    refused = Refused(limit, wait_s)
            found.append((limit, part, amount))
        if refused is not None:
            return refused
        for limit, part, amount in found:
            use = limit.use
            use.parts[part] = use.parts.get(part, 0) + amount
            use.total += amount
        return Taken(found)

    async def admit(self, limits: Sequence[Limit], amounts: Amounts, now_s: float) -> Taken | Refused:
        """As `take`, but across all processes that share a store."""
        return self.take(limits, amounts, now_s)

    async def refresh(self, limits: Sequence[Limit]) -> None:
        """Read the use of `limits` by all processes."""

    def start(self) -> None:
        """Start to use the store, if there is one."""

    async def aclose(self) -> None:
        """Stop using the store."""

    def settle(self, taken: Taken, used: Amounts, now_s: float) -> None:
        """Replace the taken amounts by those that were `used`, exactly once.

        A smaller use lowers the part in which the amount was taken. The excess of a larger use is debt: it is added to
        the current part, even above the limit.
        """
        found, taken.found = taken.found, ()
        for limit, part, amount in found:
            more = used[limit.unit] - amount
            if more > 0:
                part = limit.use.advance(limit.part(now_s), limit.kept)
            if more:
                limit.use.add(part, more)


MOST_SUBJECTS = 10_000
MOST_READ = 1_000


class Subjects(Counts):
    """The limits of end users, which one process alone counts, or of callers of `access.jwt`. They outlive a reload."""

    def __init__(self, most: int = MOST_SUBJECTS, *, are_invented: bool = True) -> None:
        """`are_invented`: clients choose the names, so each caller has a share of the places."""
        super().__init__()
        self._most, self._are_invented = most, are_invented
        self._found: OrderedDict[tuple[str, str], tuple[Sequence[Limit], Sequence[Limit]]] = OrderedDict()
        """By owner, least recently used first: the shared limits that the user's are copied from, and the user's."""
        self._users: Counter[str] = Counter()
        """How many end users each caller has."""

    def of(self, name: str, shared: Sequence[Limit], now_s: float) -> Sequence[Limit]:
        """Return the limits of the end user `name`, or `shared` if there is no place for one more.

        `shared` are the limits that all further users of the same caller have in common. To make room, a user is
        forgotten in two cases:

        - Its limits are unused. Otherwise it would get a fresh budget when it returns.
        - Its caller has more than its share of the places, and the new user's caller has less.

        A user that cannot be forgotten moves to the end of the order. `name` is an identity for a row of `access.jwt`,
        which stands for the caller.
        """
        kind, caller = shared[0].owner
        owner = (kind, f"{caller}/{blake2b(name.encode(errors='replace'), digest_size=16).hexdigest()}")
        made_from, own = self._found.get(owner, ((), ()))
        if not own:
            if len(self._found) >= self._most and not self._make_room(caller, now_s):
                return shared
            self._users[caller] += 1
        if made_from is not shared:
            kept = {limit.key: limit.use for limit in own}
            own = [Limit(owner, one.unit, one.span, one.most) for one in shared]
            for limit in own:
                limit.use = kept.get(limit.key, limit.use)
            self._found[owner] = (shared, own)
        for limit, one in zip(own, shared, strict=True):
            limit.ahead_s = one.ahead_s
        self._found.move_to_end(owner)
        return own

    def fullest(self, now_s: float) -> dict[tuple[str, ...], Limit]:
        """Return, by the key of each shared limit, the most used one of the MOST_READ subjects that came last."""
        found = dict[tuple[str, ...], Limit]()
        for _, own in islice(reversed(self._found.values()), MOST_READ):
            for limit in own:
                key = (*limit.subject, limit.unit, limit.span)
                if key not in found or found[key].used(now_s) < limit.used(now_s):
                    found[key] = limit
        return found

    def _make_room(self, caller: str, now_s: float) -> bool:
        """Forget a user for a new one of `caller`. Return False if none may be forgotten."""
        share = self._most // (len(self._users) + (caller not in self._users))
        is_owed = self._are_invented and self._users[caller] < share
        for _ in range(len(self._found) if is_owed else 1):
            oldest = next(iter(self._found))
            other = oldest[1].rpartition("/")[0]
            is_spare = is_owed and self._users[other] > share
            if is_spare or not any(limit.is_used(now_s) for limit in self._found[oldest][1]):
                del self._found[oldest]
                self._users[other] -= 1
                if not self._users[other]:
                    del self._users[other]
                return True
            self._found.move_to_end(oldest)
        return False
