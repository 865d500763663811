"""Decide from values how an attempt ended, and whether its request may be sent again.

`decide` is the only function that decides about a retry or a failover. It words nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum

import msgspec

from gatepass import errors
from gatepass.learning.rejection import OF_BATCHES, TEACHING

MOST_RENEWALS = 2
"""Limit on the new tokens for one request at one target. The second one is for a token that another process ended."""
MOST_TRIES = 8
"""Limit on the tries of one request at one target. Strict upstreams name one unsupported member in each error."""
MOST_TRIES_S = 10.0
"""Time after which no further try with a learned rule begins, from the first one on. The first repeat is sent in any
case: otherwise an upstream that rejects slowly would never accept a request, and gatepass would learn nothing."""


class Outcome(StrEnum):
    """How an attempt ended: a closed set."""

    COMPLETE = "complete"
    """The reply is good, and all of it arrived."""
    ERROR_REPLY = "error_reply"
    """The upstream returned an error, perhaps in a 200 or in a stream."""
    TOKEN_REJECTED = "token_rejected"  # noqa: S105 - the name of an outcome, not a secret
    NOTHING_WRITTEN = "nothing_written"
    """gatepass sent nothing: no token, no free connection, or a call that the upstream's dialect cannot express."""
    CONNECTION_FAILED = "connection_failed"
    """No connection, or one that closed before the reply."""
    CUT = "cut"
    """The reply ended before it was complete."""
    INVALID = "invalid"
    """The reply is unusable, or gatepass failed at it."""
    TIMED_OUT = "timed_out"
    CLIENT_GONE = "client_gone"
    """The client left, or its upload failed."""
    DRAINED = "drained"
    """gatepass stopped."""


COMPLETE = Outcome.COMPLETE
"""For each request: access to a member of an Enum takes CPython 3.11 ten times as long."""


class Repeat(StrEnum):
    """How a request may be sent again."""

    NEW_TOKEN = "new_token"  # noqa: S105 - the name of a repeat, not a secret
    NEW_CONNECTION = "new_connection"
    LEARNED_RULE = "learned_rule"
    """If a rule can be learned from the error."""
    NEXT_TARGET = "next_target"


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt did, and what the attempts before it did for the same request."""

    sent: bool = True
    """A byte of the request may have been written."""
    sent_before: bool = False
    """So may a byte in an earlier attempt."""
    relayed: bool = False
    """The client may have received an event or a byte of the reply."""
    resendable: bool = True
    """The request can be sent from its beginning: it is not an upload whose beginning was dropped."""
    learns: bool = False
    """It has a JSON body, which learned rules may change."""
    lacks_path: bool = False
    """The upstream seems to lack the path of the operation, which a chat may serve."""
    stale: bool = False
    """A reused connection closed without an answer."""
    repeats_stale: bool = True
    """The setting `repeat_stale`: also after a byte was written."""
    repeats_failed: bool = False
    """The operator allows that the upstream executes the request twice."""
    token_expired: bool = False
    """The token expired while the request waited for a connection."""
    has_token: bool = True
    renewals: int = 0
    """How many attempts at this target followed a rejected token."""
    reconnected: bool = False
    """An attempt at this target followed a stale connection."""
    rules: int = 0
    """How many attempts at this target followed a learned rule."""
    tried_s: float = 0.0
    """The time since the first attempt at this target."""
    has_next: bool = False
    """Another target follows."""


_FAILED = frozenset((Outcome.CONNECTION_FAILED, Outcome.TIMED_OUT, Outcome.ERROR_REPLY))
"""The outcomes after which a request with `repeats_failed` is sent once more."""


def decide(outcome: Outcome, status: int, tried: Tried, left_s: float) -> Repeat | None:
    """Return how a request may be sent again after an attempt that ended with `outcome`, None if it may not.

    `status` is that of the attempt's error. `left_s` is the time until the request's deadline, `inf` without one.
    """
    if left_s <= 0 or tried.relayed or not tried.resendable:
        return None
    if outcome is Outcome.TOKEN_REJECTED and tried.has_token and tried.renewals < MOST_RENEWALS:
        return Repeat.NEW_TOKEN
    if tried.repeats_failed and outcome in _FAILED and not tried.reconnected:
        return Repeat.NEW_CONNECTION
    if outcome in (Outcome.TOKEN_REJECTED, Outcome.ERROR_REPLY):
        has_tries = not tried.rules or (tried.rules < MOST_TRIES - 1 and tried.tried_s < MOST_TRIES_S)
        teaches = tried.learns and (status in TEACHING or status == OF_BATCHES or tried.lacks_path)
        return Repeat.LEARNED_RULE if teaches and has_tries else None
    if outcome is Outcome.NOTHING_WRITTEN and tried.token_expired:
        return Repeat.NEW_TOKEN
    may_be_stale = tried.stale and (tried.repeats_stale or not tried.sent)
    if outcome is Outcome.CONNECTION_FAILED and may_be_stale and not tried.reconnected:
        return Repeat.NEW_CONNECTION
    if outcome in (Outcome.NOTHING_WRITTEN, Outcome.CONNECTION_FAILED, Outcome.TIMED_OUT) and tried.has_next:
        return None if tried.sent or tried.sent_before else Repeat.NEXT_TARGET
    return None


def outcome_of(error: BaseException, *, sent: bool, has_head: bool) -> Outcome:
    """Return how an attempt ended that `error` ended. `has_head`: the head of the reply had arrived."""
    match error:
        case errors.UpstreamTimeout():
            return Outcome.TIMED_OUT
        case errors.UpstreamErrorReply():
            return Outcome.ERROR_REPLY
        case errors.UpstreamConnect() | errors.UpstreamDns() | errors.UpstreamTls():
            return Outcome.CONNECTION_FAILED
        case errors.UpstreamClosed():
            return Outcome.CUT if has_head else Outcome.CONNECTION_FAILED
        case errors.ClientGone():
            return Outcome.CLIENT_GONE
        case errors.Draining() | asyncio.CancelledError():
            return Outcome.DRAINED
        case errors.UpstreamError():
            return Outcome.INVALID
        case errors.TokenUnavailable() | errors.GatewayError() | errors.CallerError() if not sent:
            return Outcome.NOTHING_WRITTEN
        case errors.CallerError():
            return Outcome.CLIENT_GONE
        case _:
            return Outcome.INVALID
