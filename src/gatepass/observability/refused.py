"""Sum the log lines of refused requests, because a client may cause thousands of them without a key."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from gatepass.errors import GatepassError
from gatepass.observability.log import emit
from gatepass.types import SERVER_ERROR

LOG = logging.getLogger("gatepass.access")

LOG_INTERVAL_S = 1.0
"""Refusals with one error code share one line in this time, after the first refusal of each address."""
ADDRESSES = 10
"""How many addresses get a line for their first refusal, and how many a common line counts by name."""
OTHERS = "others"


class RefusedRequests:
    """Decides which refused requests get a separate log line. The others of an interval share one common line.

    After a common line, the next interval begins. The addresses of that line get no separate line in it.
    """

    def __init__(self) -> None:
        self._intervals: dict[str, _Interval] = {}

    def has_line(self, error: GatepassError, peer: str, addresses: int = ADDRESSES) -> bool:
        """Return whether the refusal with `error` gets a separate line. If not, the common line counts it.

        The first refusal of each address and code in an interval gets one, for up to `addresses`.
        """
        code = error.public_code
        interval = self._intervals.get(code) or self._begin(code, _Interval())
        if peer not in interval.shown and len(interval.shown) < addresses:
            interval.shown.add(peer)
            return True
        interval.error = error
        interval.peers[peer if peer in interval.peers or len(interval.peers) < ADDRESSES else OTHERS] += 1
        return False

    def log(self, error: GatepassError, peer: str) -> None:
        """Log a refusal that has no access line: the first one of its code at once, the next ones together."""
        if self.has_line(error, peer, 1):
            _log(error, Counter((peer,)))

    def _begin(self, code: str, interval: _Interval) -> _Interval:
        self._intervals[code] = interval
        asyncio.get_running_loop().call_later(LOG_INTERVAL_S, self._end, code)
        return interval

    def _end(self, code: str) -> None:
        ended = self._intervals.pop(code)
        if ended.error is not None:
            _log(ended.error, ended.peers)
            self._begin(code, _Interval()).shown.update(ended.peers)


class _Interval:
    __slots__ = ("error", "peers", "shown")

    def __init__(self) -> None:
        self.shown: set[str] = set()
        """The addresses that get no further separate line."""
        self.peers: Counter[str] = Counter()
        """The number of refusals by address that the common line reports."""
        self.error: GatepassError | None = None
        """The last of these refusals."""


def _log(error: GatepassError, peers: Counter[str]) -> None:
    fields = {"status": error.http_status, "code": error.public_code, "hop": error.hop, "reason": error.message}
    level = logging.WARNING if error.http_status >= SERVER_ERROR else logging.INFO
    named = {"peer": next(iter(peers))} if len(peers) == 1 else {"peers": dict(peers)}
    emit(LOG, level, "refused", {**fields, **named, "count": peers.total()})
