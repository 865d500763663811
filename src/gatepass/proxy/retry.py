"""Decide from values how an attempt ended, and whether its request may be sent again.

`decide` is the only function that decides about a retry or a failover. It words nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
import re
from enum import StrEnum

import msgspec

from gatepass import errors
from gatepass.errors import UpstreamErrorReply
from gatepass.learning.pointing import OF_BATCHES, TEACHING, is_too_long
from gatepass.types import SERVER_ERROR

TOO_MANY, UNAVAILABLE = 429, 503
MOST_CALLS = 9
"""The calls of one request, to which each further target adds one, after which no change is tried. Strict upstreams
name one unsupported member in each error."""
MOST_TRIES_S = 10.0
"""Time from the first call at a target on after which no change is tried there. RAGFlow's dialog waits as long for an
answer."""


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
    RETRY = "retry"
    """After a pause, because `models.NAME.retry` allows it and no other target is left."""


class Tried(msgspec.Struct, kw_only=True):
    """What an attempt did, and what the attempts before it did for the same request."""

    sent: bool = False
    """A byte of the request may have been written."""
    sent_before: bool = False
    """So may a byte in an earlier attempt."""
    learns: bool = False
    """It has a JSON body, which learned rules may change."""
    lacks_path: bool = False
    """The upstream seems to lack the path of the operation, which a chat may serve."""
    stale: bool = False
    """A reused connection closed without an answer."""
    repeats_stale: bool = True
    """The setting `repeat_stale` of the upstream, for this request: also after a byte was written."""
    token_expired: bool = False
    """The token expired while the request waited for a connection."""
    has_token: bool = False
    """There is another token than the one that the upstream rejected."""
    renewed: bool = False
    """An attempt at this target followed a rejected token."""
    reconnected: bool = False
    """An attempt at this target followed a stale connection."""
    calls: int = 1
    """How many calls the request made at all targets, this one among them, without the first at each further target."""
    tried_s: float = 0.0
    """The time since the first attempt at this target."""


class Allowed(msgspec.Struct, frozen=True):
    """What the route allows after an attempt. The default is that of one target without a policy."""

    has_next: bool = False
    """There is a target that was not tried."""
    refused: bool = False
    """The policy repeats a request that the upstream refused."""
    run: bool = False
    """It repeats one that the upstream may have executed, and its budget allows one more."""
    pause_s: float = 0.0
    """The wait before a repeat by policy."""
    has_time: bool = True
    """The request and its client have time for the pause, and for an attempt as long as this one."""


def decide(
    outcome: Outcome, status: int, wait_s: float | None, tried: Tried, allowed: Allowed, left_s: float
) -> Repeat | None:
    """Return how a request may be sent again after an attempt that ended with `outcome`, None if it may not.

    `status` and `wait_s` are those of the attempt's error. `left_s` is the time until the request's
    deadline, `inf` without one.
    """
    if left_s <= 0:
        return None
    if outcome is Outcome.TOKEN_REJECTED and tried.has_token and not tried.renewed:
        return Repeat.NEW_TOKEN
    if outcome is Outcome.NOTHING_WRITTEN and tried.token_expired:
        return Repeat.NEW_TOKEN
    may_be_stale = tried.stale and (tried.repeats_stale or not tried.sent)
    if outcome is Outcome.CONNECTION_FAILED and may_be_stale and not tried.reconnected:
        return Repeat.NEW_CONNECTION
    is_unsent = outcome in _UNSENT and not tried.sent
    if is_unsent and not tried.sent_before and allowed.has_next:
        return Repeat.NEXT_TARGET
    if is_unsent:
        by_policy = allowed.refused and (allowed.has_next or outcome is not Outcome.NOTHING_WRITTEN)
    elif outcome in REPLIES:
        by_policy = allowed.refused if is_limited(status, wait_s) else allowed.run and status >= SERVER_ERROR
        by_policy = by_policy and not tried.lacks_path
    else:
        by_policy = allowed.run and outcome in _NO_REPLY
    if by_policy and allowed.has_time:
        return Repeat.NEXT_TARGET if allowed.has_next else Repeat.RETRY
    if outcome in (Outcome.TOKEN_REJECTED, Outcome.ERROR_REPLY):
        has_tries = tried.calls < MOST_CALLS and (tried.lacks_path or tried.tried_s < MOST_TRIES_S)
        teaches = tried.learns and (status in TEACHING or status == OF_BATCHES or tried.lacks_path)
        return Repeat.LEARNED_RULE if teaches and has_tries else None
    return None


_UNSENT = (Outcome.NOTHING_WRITTEN, Outcome.CONNECTION_FAILED, Outcome.TIMED_OUT)
REPLIES = frozenset((Outcome.ERROR_REPLY, Outcome.INVALID))
"""The outcomes whose status decides. One below 500 of an INVALID reply is that of a web page, such as nginx's 413."""
_NO_REPLY = frozenset((Outcome.CONNECTION_FAILED, Outcome.TIMED_OUT, Outcome.CUT))
"""The other outcomes after which the upstream may have executed the request."""


def is_limited(status: int, wait_s: float | None) -> bool:
    """Return whether an error reply means that the upstream refused the request for now and did not execute it."""
    return status == TOO_MANY or (status == UNAVAILABLE and wait_s is not None)


def has_failed(outcome: Outcome, status: int, *, is_limited: bool) -> bool:
    """Return whether an attempt ended by a failure of its target. `status` is that of the attempt's error."""
    return status >= SERVER_ERROR and not is_limited if outcome in REPLIES else outcome in _NO_REPLY


_OF_SIZE = r"(?i)request too large|too large for|reduce the (?:length|size)"


def concerns_size(error: BaseException | None) -> bool:
    """Return whether a 429 is about the size of its request, so that other requests need not wait."""
    if not isinstance(error, UpstreamErrorReply) or error.error_body is None:
        return False
    return is_too_long(error) or re.search(_OF_SIZE, error.error_body.message) is not None


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
