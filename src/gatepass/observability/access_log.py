"""The observer that logs: a line for each request, and common lines for refused ones."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import msgspec

from gatepass.errors import GatepassError
from gatepass.observability.log import emit
from gatepass.observability.observer import AccessRecord, Observer, Refusal, RequestRecord, RuleChange
from gatepass.types import CLIENT_ERROR, SERVER_ERROR

LOG = logging.getLogger("gatepass.access")
RULE_LOG = logging.getLogger("gatepass.learning")

LOG_INTERVAL_S = 1.0
"""Refusals with one error code share one line in this time, after the first refusal of each address."""
ADDRESSES = 10
"""Limit on the addresses that get a line for their first refusal, and on those that a common line names."""
OTHERS = "others"


class AccessLog(Observer):
    """Logs each request and each change of a learned rule.

    Some refused requests get a separate line, and the others of an interval share a common one: a client may cause
    thousands of them without a key. After a common line, the next interval begins. The addresses of that line get no
    separate line in it.
    """

    def __init__(self) -> None:
        self._intervals: dict[str, _Interval] = {}

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:
        record = request.access
        if (
            # a client without a valid key could write a log that is many times as large as its requests, by a 503 too
            not record.caller and error is not None and not self.has_line(error, record.peer)
        ):
            return
        status = record.status or 0
        failed_late = error is not None and 0 < status < CLIENT_ERROR  # after the head was sent
        level = logging.WARNING if status >= SERVER_ERROR or failed_late else logging.INFO
        emit(LOG, level, "request", record, texts_of(record))

    def refused(self, refusal: Refusal) -> None:
        # one without an access line: the first one of its code at once, the next ones together
        if self.has_line(refusal.error, refusal.peer, 1):
            _log(refusal.error, Counter((refusal.peer,)))

    def rule_changed(self, change: RuleChange) -> None:
        fields = {
            "id": change.request_id,
            "caller": change.caller or None,
            "upstream": change.upstream,
            "model": change.model,
            "operation": change.operation,
            "adapted": change.adapted,
            "evidence": change.evidence or None,
        }
        emit(RULE_LOG, logging.INFO, f"rule_{change.event}", fields)

    def has_line(self, error: GatepassError, peer: str, addresses: int = ADDRESSES) -> bool:
        """Return whether the refusal with `error` gets a separate line. If not, it is part of the common line.

        The first refusal of each address and code in an interval gets one, for up to `addresses`.
        """
        code = error.public_code
        interval = self._intervals.get(code) or self._begin(code)
        if peer not in interval.shown and len(interval.shown) < addresses:
            interval.shown.add(peer)
            return True
        interval.error = error
        interval.peers[peer if peer in interval.peers or len(interval.peers) < ADDRESSES else OTHERS] += 1
        return False

    def _begin(self, code: str) -> _Interval:
        interval = self._intervals[code] = _Interval()
        asyncio.get_running_loop().call_later(LOG_INTERVAL_S, self._end, code)
        return interval

    def _end(self, code: str) -> None:
        ended = self._intervals.pop(code)
        if ended.error is not None:
            _log(ended.error, ended.peers)
            self._begin(code).shown.update(ended.peers)


def texts_of(record: AccessRecord) -> str:
    """Return all texts of the fields, in which `emit` searches for secrets. They are a quarter of the log line."""
    texts = (
        f"{record.id} {record.method} {record.path} {record.operation} {record.caller} {record.key_id} {record.peer}"
        f" {record.user_agent} {record.model} {record.upstream} {record.upstream_model} {record.upstream_request_id}"
    )
    listed = record.adapted + record.tried + record.failover + record.repeats
    if listed:
        texts = f"{texts} {' '.join(listed)}"
    if record.auth or record.user:
        texts = f"{texts} {record.auth} {record.user}"
    if record.mcp_method or record.mcp_tool:
        texts = f"{texts} {record.mcp_method} {record.mcp_tool}"
    return texts if record.outcome == "ok" else f"{texts} {record.outcome} {record.code} {record.hop} {record.reason}"


class _Interval(msgspec.Struct):
    shown: set[str] = msgspec.field(default_factory=set)
    """The addresses that get no further separate line."""
    peers: Counter[str] = msgspec.field(default_factory=Counter)
    """The number of refusals by address that the common line reports."""
    error: GatepassError | None = None
    """The last of these refusals."""


def _log(error: GatepassError, peers: Counter[str]) -> None:
    fields = {"status": error.http_status, "code": error.public_code, "hop": error.hop, "reason": error.message}
    level = logging.WARNING if error.http_status >= SERVER_ERROR else logging.INFO
    named = {"peer": next(iter(peers))} if len(peers) == 1 else {"peers": dict(peers)}
    emit(LOG, level, "refused", {**fields, **named, "count": peers.total()})
