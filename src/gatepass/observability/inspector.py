"""The ring of the request inspector: the records of the last requests, in memory only.

It keeps the values of the log lines. `story.py` renders them when an operator asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import merge
from sys import getsizeof

from gatepass.errors import GatepassError
from gatepass.observability.observer import AccessRecord, AttemptRecord, Observer, RequestRecord

RECORD_BYTES = 2_000
"""What one request with one attempt takes: its records, their texts at usual lengths, and its place in the ring."""
ATTEMPT_BYTES = 1_000
"""What each attempt takes beyond the first one."""
ANONYMOUS = 100
"""The number of requests without a valid key that are kept. They are kept apart, so a flood evicts no others."""


class Inspector(Observer):
    """Keeps ended requests, the newest ones first, within `limit_bytes`."""

    def __init__(self) -> None:
        self.limit_bytes = 0
        """`Limits.ring_bytes`. A reload sets it."""
        self.held_bytes = 0
        self._requests: deque[RequestRecord] = deque()
        self._sizes: deque[int] = deque()
        """The bytes that each of them takes."""
        self._anonymous: deque[RequestRecord] = deque(maxlen=ANONYMOUS)

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:  # noqa: ARG002 - not kept
        access, attempt = request.access, request.attempt
        size_bytes = RECORD_BYTES
        if access.outcome != "ok" or access.adapted or (attempt is not None and attempt.after is not None):
            size_bytes = _size_bytes(access, attempt)
        if not access.caller:
            self._anonymous.append(request)
            return
        self._requests.append(request)
        self._sizes.append(size_bytes)
        self.held_bytes += size_bytes
        if self.held_bytes > self.limit_bytes:
            self._evict()

    def newest(self) -> Iterator[RequestRecord]:
        """Return the requests, those that ended last first."""
        return merge(
            reversed(self._requests),
            reversed(self._anonymous),
            key=lambda one: one.arrived_s + (one.duration_s or 0.0),
            reverse=True,
        )

    def limit(self, limit_bytes: int) -> None:
        """Keep at most `limit_bytes` from now on."""
        self.limit_bytes = limit_bytes
        self._evict()

    def _evict(self) -> None:
        while self._requests and self.held_bytes > self.limit_bytes:
            self._requests.popleft()
            self.held_bytes -= self._sizes.popleft()


def _size_bytes(access: AccessRecord, last: AttemptRecord | None) -> int:
    """Return what a request takes that was not usual. Its texts are counted as they are."""
    size_bytes = RECORD_BYTES - ATTEMPT_BYTES
    texts = [access.reason, access.path, access.model, access.user, *access.adapted, *access.tried, *access.failover]
    attempts = [last]
    while attempts:
        if (one := attempts.pop()) is not None:
            size_bytes += ATTEMPT_BYTES
            texts += [one.reason, *one.adapted, *one.tried]
            attempts += (one.after, *one.parts)
    return size_bytes + sum(map(getsizeof, filter(None, texts)))
