"""SharedWindows: the records of the workers of one machine, in a file that they map into their memory.

Each update is made under a lock that the kernel releases if its holder is killed. No worker waits for it longer than
LOCK_S. While its holder is stopped, each worker admits what fits by the records and by its own requests, which it adds
to the records later.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from gatepass.policy.windows import RECORD_BYTES, Limit, Refused, Taken, Windows

LOG = logging.getLogger("gatepass.limits")

LOCK_S = 0.02
AGAIN_S = 0.2
"""After LOCK_S, the lock is tried only once for each request in this time: a stopped holder takes a tenth of it."""
LOG_EVERY_S = 60.0
MOST_LATE = 10_000
"""The requests that are added later. If a holder is stopped for good, the oldest are forgotten."""
MOST_RECORDS = 65_536
"""The file has room for so many, 36 MB, and uses memory only for those that exist. Further ones are counted alone."""
_KEY_BYTES = 16
_HEAD_BYTES = 16
_ENTRY_BYTES = _KEY_BYTES + RECORD_BYTES


class SharedWindows(Windows):
    """The Windows of one worker. Records are never removed or moved before all workers have ended."""

    def __init__(self, file: Path) -> None:
        super().__init__(os.getpid())
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size_bytes = _HEAD_BYTES + MOST_RECORDS * _ENTRY_BYTES
        os.ftruncate(self._file, size_bytes)  # zeros that use no memory yet
        self._memory = memoryview(mmap.mmap(self._file, size_bytes))
        self._count = self._memory[:4].cast("I")
        """The number of records."""
        self._seen = 0
        self._records: dict[bytes, memoryview] = {}
        self._alone = Windows(self.pid)
        """The requests that were admitted without the lock and are not in the records yet."""
        self._late: deque[tuple[Taken, Sequence[Limit]]] = deque(maxlen=MOST_LATE)
        self._unsettled: deque[tuple[Taken, int | None]] = deque(maxlen=MOST_LATE)
        self._unattached: list[Limit] = []
        """The limits that got no record, because the lock was not free."""
        self._again_s = self._logged_s = -LOG_EVERY_S

    def attach(self, limit: Limit) -> Limit:
        key = limit.key
        self._read_new()
        if key not in self._records:
            if self._lock():
                try:
                    self._add(key)
                finally:
                    self._unlock()
            else:
                self._unattached.append(limit)
        limit.words = self._records.get(key, limit.words)
        return limit

    def _add(self, key: bytes) -> None:
        """Add a record, with the lock."""
        self._read_new()  # another worker may have added it
        if key in self._records or self._seen >= MOST_RECORDS:
            return
        at = _HEAD_BYTES + self._seen * _ENTRY_BYTES
        try:
            os.posix_fallocate(self._file, at, _ENTRY_BYTES)  # a full tmpfs fails here, and not at an access
        except OSError as error:
            LOG.warning("limits_not_shared", extra={"fields": {"reason": error.strerror}})
            return
        self._memory[at : at + _KEY_BYTES] = key
        self._count[0] += 1  # last: a killed worker leaves no half of a record
        self._read_new()

    def prune(self, now_s: float) -> None:
        """Do nothing: other workers may use a record that counts nothing."""

    def take(self, limits: Sequence[Limit], tokens: int, now_s: float, *, is_forced: bool = False) -> Taken | Refused:
        if not self._lock():
            return self._take_alone(limits, tokens, now_s, is_forced=is_forced)
        try:
            if self._late or self._unsettled or self._unattached:
                self._catch_up(now_s)
            return super().take(limits, tokens, now_s, is_forced=is_forced)
        finally:
            self._unlock()

    def settle(self, taken: Taken, tokens: int | None, now_s: float) -> None:
        if not self._lock():
            self._unsettled.append((taken, tokens))
            return
        try:
            if self._late or self._unsettled or self._unattached:
                self._catch_up(now_s)
            super().settle(taken, tokens, now_s)
        finally:
            self._unlock()

    def _take_alone(self, limits: Sequence[Limit], tokens: int, now_s: float, *, is_forced: bool) -> Taken | Refused:
        own = [
            self._alone.attach(Limit(one.owner, one.unit, one.window, 0, observes=one.observes, zone=one.zone))
            for one in limits
        ]
        for limit, twin in zip(limits, own, strict=True):
            twin.most, twin.ahead_s = max(0, limit.most - limit.used(now_s)), limit.ahead_s
        result = self._alone.take(own, tokens, now_s, is_forced=is_forced)
        if isinstance(result, Refused):
            return Refused(limits[own.index(result.limit)], result.wait_s)
        self._late.append((result, limits))
        result.exceeded = tuple(limits[own.index(twin)] for twin in result.exceeded)
        return result

    def _catch_up(self, now_s: float) -> None:
        """Add the requests that were admitted or ended without the lock to the records."""
        for limit in self._unattached:
            self._add(limit.key)
            limit.words = self._records.get(limit.key, limit.words)
        self._unattached = []
        for taken, limits in self._late:
            added = super().take(limits, taken.tokens, now_s, is_forced=True)
            if isinstance(added, Taken):
                taken.found = added.found
        self._late.clear()
        self._alone = Windows(self.pid)
        while self._unsettled:
            super().settle(*self._unsettled.popleft(), now_s)

    def reset(self, limit: Limit, now_s: float) -> bool:
        if not self._lock():
            return False
        try:
            return super().reset(limit, now_s)
        finally:
            self._unlock()

    def _read_new(self) -> None:
        for number in range(self._seen, self._count[0]):
            at = _HEAD_BYTES + number * _ENTRY_BYTES
            words = self._memory[at + _KEY_BYTES : at + _ENTRY_BYTES].cast("I")
            self._records[bytes(self._memory[at : at + _KEY_BYTES])] = words
            self._seen = number + 1

    def _lock(self) -> bool:
        """Take the lock, unless its holder keeps it for LOCK_S."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._wait_for_lock()
        return True

    def _wait_for_lock(self) -> bool:
        until_s = (now_s := time.monotonic()) + LOCK_S
        if now_s < self._again_s:
            return False
        while now_s < until_s:
            os.sched_yield()
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now_s = time.monotonic()
            else:
                return True
        self._again_s = now_s + AGAIN_S
        if now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            LOG.warning("limits_counted_alone")
        return False

    def _unlock(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
