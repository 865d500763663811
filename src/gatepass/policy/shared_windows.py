"""SharedWindows: the records of the workers of one machine, in a file that they map into their memory.

Each update is made under a lock that the kernel releases if its holder is killed. No worker waits for it longer than
LOCK_S: while its holder is stopped, each worker counts alone.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path

from gatepass.policy.windows import RECORD_BYTES, Limit, Refused, Taken, Windows

LOG = logging.getLogger("gatepass.limits")

LOCK_S = 0.003
AGAIN_S = 0.1
"""After LOCK_S, the lock is not tried again for this time."""
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
        self._alone = Windows(os.getpid())
        self._twins: dict[Limit, Limit] = {}
        self._unsettled: list[tuple[Taken, int | None]] = []
        self._again_s = 0.0

    def attach(self, limit: Limit) -> Limit:
        key = limit.key
        self._read_new()
        if key not in self._records and self._lock():
            try:
                self._read_new()  # another worker may have added it
                if key not in self._records and self._seen < MOST_RECORDS:
                    at = _HEAD_BYTES + self._seen * _ENTRY_BYTES
                    os.posix_fallocate(self._file, at, _ENTRY_BYTES)  # a full tmpfs fails here, and not at an access
                    self._memory[at : at + _KEY_BYTES] = key
                    self._count[0] += 1  # last: a killed worker leaves no half of a record
                    self._read_new()
            except OSError as error:
                LOG.warning("limits_not_shared", extra={"fields": {"reason": error.strerror}})
            finally:
                self._unlock()
        limit.words = self._records.get(key, limit.words)
        return limit

    def prune(self, now_s: float) -> None:
        self._alone.prune(now_s)
        self._twins.clear()

    def take(self, limits: Sequence[Limit], tokens: int, now_s: float, *, is_forced: bool = False) -> Taken | Refused:
        if not self._lock():
            twins = [self._twin(limit) for limit in limits]
            return self._alone.take(twins, tokens, now_s, is_forced=is_forced)
        try:
            while self._unsettled:
                super().settle(*self._unsettled.pop(), now_s)
            return super().take(limits, tokens, now_s, is_forced=is_forced)
        finally:
            self._unlock()

    def settle(self, taken: Taken, tokens: int | None, now_s: float) -> None:
        if not self._lock():
            self._unsettled.append((taken, tokens))
            return
        try:
            super().settle(taken, tokens, now_s)
        finally:
            self._unlock()

    def reset(self, limit: Limit, now_s: float) -> bool:
        if not self._lock():
            return False
        try:
            return super().reset(limit, now_s)
        finally:
            self._unlock()

    def _twin(self, limit: Limit) -> Limit:
        """Return the same limit with a record of this process alone."""
        if limit not in self._twins:
            twin = Limit(limit.owner, limit.unit, limit.window, limit.most, observes=limit.observes)
            self._twins[limit] = self._alone.attach(twin)
        return self._twins[limit]

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
        while now_s >= self._again_s and now_s < until_s:
            os.sched_yield()
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now_s = time.monotonic()
            else:
                return True
        if now_s >= self._again_s:
            self._again_s = now_s + AGAIN_S
            LOG.warning("limits_counted_alone", extra={"fields": {"for_s": AGAIN_S}})
        return False

    def _unlock(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
