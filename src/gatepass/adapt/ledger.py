"""The lessons about one upstream as they lie in a store, and how they are brought together with a process's own.

Pure. All moments are the store's, which those who share it see alike, whatever their own clocks say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from gatepass.adapt.learned import Key, Learned
from gatepass.adapt.lesson import HOUR_S
from gatepass.adapt.memory import LIMIT

GRACE_S = HOUR_S
"""How long an entry stays beyond its time: until then its absence says that somebody has forgotten the lesson."""
SAME_S = 1.0
"""Two accounts of one lesson that end closer together than this are the same: each clock is read a moment late."""

Entries = Mapping[Key, Learned]


@dataclass(frozen=True, slots=True)
class Ledger:
    """`epoch` is new where the store was empty: what an earlier ledger held was lost then, and not forgotten."""

    epoch: str
    entries: Entries

    def encoded(self) -> bytes:
        return msgspec.json.encode({"epoch": self.epoch, "rows": [one.as_row() for one in self.entries.values()]})

    @classmethod
    def decoded(cls, data: bytes | None, upstream: str) -> Self | None:
        """The ledger about `upstream`; None for what is not there or is none. Strange rows are passed over."""
        try:
            document = None if data is None else msgspec.json.decode(data)
        except ValueError:
            return None
        if not isinstance(document, dict) or not isinstance(document.get("epoch"), str):
            return None
        rows = document.get("rows")
        return cls(document["epoch"], _entries(rows if isinstance(rows, list) else [], upstream))

    def left_s(self, at_s: float) -> float:
        """How long it has something to tell, counted from `at_s`."""
        return max((one.expires_at for one in self.entries.values()), default=at_s) + GRACE_S - at_s


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a process takes over and forgets, and what the store is to hold."""

    entries: Entries
    taken: list[Learned] = field(default_factory=list)
    forgotten: list[Key] = field(default_factory=list)


def settle(own: Entries, last: Entries, there: Entries, at_s: float) -> Settlement:
    """Bring `own` lessons and those in the store together at the moment `at_s`.

    `last` are those that both had when they were brought together last: what one side lacks since then, it has
    forgotten, because a probe went through without it; what one side has beyond `last`, it has learned. Of two
    accounts the one that ends later counts.
    """
    counts = {key: _counting(own.get(key), last.get(key), there.get(key), at_s) for key in {**own, **last, **there}}
    kept = {key: one for key, one in counts.items() if one is not None}
    return Settlement(
        entries=_bounded({key: one for key, one in kept.items() if not _is_over(one, at_s)}),
        taken=[one for key, one in kept.items() if one is not own.get(key) and _outlives(one, own.get(key), at_s)],
        forgotten=[key for key in own if counts[key] is None],
    )


def _counting(mine: Learned | None, before: Learned | None, theirs: Learned | None, at_s: float) -> Learned | None:
    if mine is not None and theirs is not None:
        return mine if _is_newer(mine, theirs) else theirs
    one = mine or theirs
    if one is None or before is None or _is_newer(one, before) or _is_over(before, at_s):
        return one
    return None


def _outlives(one: Learned, mine: Learned | None, at_s: float) -> bool:
    return one.expires_at > at_s and (mine is None or _is_newer(one, mine))


def _is_newer(one: Learned, other: Learned) -> bool:
    return one.expires_at > other.expires_at + SAME_S


def _is_over(one: Learned, at_s: float) -> bool:
    return one.expires_at + GRACE_S <= at_s


def _bounded(entries: dict[Key, Learned]) -> Entries:
    """Those that end last, where there are more than LIMIT."""
    if len(entries) <= LIMIT:
        return entries
    return dict(sorted(entries.items(), key=lambda entry: -entry[1].expires_at)[:LIMIT])


def _entries(rows: Iterable[Any], upstream: str) -> Entries:
    found: dict[Key, Learned] = {}
    for row in rows:
        try:
            one = Learned.of_row(row if isinstance(row, dict) else {})
        except ValueError:
            continue
        if one.subject.upstream == upstream and len(found) < LIMIT:
            found[one.key] = one
    return found
