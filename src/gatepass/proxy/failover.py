"""Failover: the way of one request over the targets of its route.

It asks the state machines of `policy` where an attempt goes, and tells them how it ended. `decide` (retry.py) decides
whether there is another attempt.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Sequence
from typing import Self

import msgspec

from gatepass.config.access import AccessKey
from gatepass.dialects.reply_check import quota_reset_s
from gatepass.documents import NotTried
from gatepass.errors import GatepassError, Limited, UpstreamError, UpstreamErrorReply
from gatepass.policy.balancing import AVAILABLE, TargetHealth, choose, ranked
from gatepass.policy.fair_queue import FairQueue
from gatepass.policy.retry_budget import RetryBudget, pause_s
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.admission import Admitted, limit_reached, never_fits
from gatepass.proxy.app_state import AppState
from gatepass.proxy.retry import COMPLETE, REPLIES, Outcome, concerns_size, has_failed, is_limited
from gatepass.proxy.routing import Route
from gatepass.types import SERVER_ERROR, Call, ClientRequest, Hidden, Target, header

LOG = logging.getLogger("gatepass.targets")

MOST_PAUSE_S = 10.0
"""The longest time for which a request waits in gatepass before its next attempt. A client that waits can show it."""


class Failover(Hidden, msgspec.Struct, eq=False):
    """The targets of one request, with those that were tried. Each attempt has one `began` and one `ended`."""

    state: AppState
    call: Call
    request: ClientRequest
    caller: AccessKey
    route: Route
    targets: Sequence[TargetHealth]
    """Where the requests in progress are counted."""
    healths: Sequence[TargetHealth]
    """Where waits and ejections are kept: the same, or for the target of a pattern that of the model."""
    order: Sequence[int]
    """The places of the targets, the preferred one first."""
    budget: RetryBudget | None = None
    """The requests of the model and their repeats. None if nothing may run twice."""
    is_arranged: bool = False
    """Whether `arrange` was called: nearly every request needs only the first target of a list."""
    may_repeat: bool = False
    """Whether the policy may repeat the request. It repeats neither a client's own repeat nor a request that names a
    stored object."""
    at: int = 0
    seen: tuple[int, ...] = ()
    """The places that were tried since all of them could be."""
    repeats: int = 0
    """The attempts that only the policy allowed."""
    is_probe: bool = False
    began_s: float = 0.0
    ticket: asyncio.Event | None = None
    """What holds a place at the upstream of the current target, or waits for one. None if nothing is limited."""
    position: int = 0
    """How many requests waited when this one began to wait, with it. 0 if it never did."""
    queue_wait_s: float = 0.0
    admitted: Admitted | None = None
    """What the request takes of the limits of upstreams. None without limits."""
    closed: tuple[int, ...] = ()
    """The places of targets whose upstream had used up its limits at the last `choose`."""

    @classmethod
    def begin(cls, state: AppState, route: Route, call: Call, request: ClientRequest, caller: AccessKey) -> Self:
        targets = healths = state.healths_of(route)
        if route.is_pattern:
            pairs = zip(targets, route.targets, strict=True)
            healths = [one if target.model is not None else one.of_model(call.model) for one, target in pairs]
        failover = cls(state, call, request, caller, route, targets, healths, range(len(targets)))
        if route.repeats_run:
            failover.budget = state.repeats[route.entry]
            failover.budget.add(state.clock.now(), is_repeat=False)
        if route.policy != "order":
            failover.arrange()
        return failover

    def arrange(self) -> None:
        """Set `order` and `may_repeat`: they depend on the request, not only on its route."""
        call, route, targets, key = self.call, self.route, self.targets, None
        is_pinned = (call.names_stored or call.operation.is_about_stored) and len(targets) > 1
        if route.policy != "order":
            if PROTOCOLS[call.operation.protocol].prefers_one_target:
                key = call.caller.encode()
            if key is not None or not is_pinned:
                # a stored object is at its target even if that has many requests
                loads = [0 if is_pinned else one.in_flight for one in targets]
                self.order = ranked(route.policy, route.full_names, route.weights, loads, key)
        if is_pinned:
            self.order = self.order[:1]
        elif route.attempts > 1:
            self.may_repeat = header(self.request.headers, b"x-stainless-retry-count") in (None, b"", b"0")
        self.is_arranged = True

    @property
    def target(self) -> Target:
        return self.route.targets[self.at]

    def not_tried(self, now_s: float) -> tuple[NotTried, ...]:
        """Return the targets that are left, with what keeps requests away from each."""
        left: list[NotTried] = []
        route, full = self.route, self._full() if self.route.has_limits else ()
        for at in self.order:
            if at not in self.seen:
                word, _ = self.healths[at].state(now_s, route.breaker, has_cooldown=route.has_cooldown)
                word = "full" if word == AVAILABLE and (at in full or at in self.closed) else word
                left.append(NotTried(route.targets[at].upstream, route.names[at], word))
        return tuple(left)

    def find(self, now_s: float) -> int | None:
        """Return the place of the best target that was not tried, None if there is none."""
        route, full = self.route, self._full() if self.route.has_limits else ()
        order = [at for at in self.order if at not in self.closed] if self.closed else self.order
        return choose(order, self.seen, self.healths, full, now_s, route.breaker, has_cooldown=route.has_cooldown)

    def choose(self, now_s: float) -> bool:
        """Begin an attempt at the best target: one that was not tried, or any. Return False if none takes it."""
        if (at := self._best(now_s)) is None:
            return False
        self.at, self.seen = at, (*self.seen, at)
        self._begin(now_s)
        return True

    async def choose_within_limits(self, now_s: float) -> bool:
        """Do what `choose` does, with a target whose upstream has not used up its limits."""
        self.closed, admitted = (), self.admitted
        if admitted is None:
            return self.choose(now_s)
        while (at := self._best(now_s)) is not None:
            if await admitted.take_target(self.route.targets[at].upstream, now_s):
                break
            self.closed = (*self.closed, at)
        is_chosen = self.choose(now_s)
        if at is not None and not (is_chosen and self.at == at):  # it became unavailable while the store answered
            admitted.leave_target(now_s, None, "", sent=False)
            if is_chosen:
                admitted.repeat_target(self.target.upstream, now_s)
        return is_chosen

    async def take_parts(self, parts: int, now_s: float) -> None:
        """Take the limits of the upstream for a call that is sent in `parts`. Raises InvalidRequest and Limited."""
        if self.admitted is not None:
            await self.admitted.take_parts(self.target.upstream, parts, now_s)

    def _best(self, now_s: float) -> int | None:
        at = self.find(now_s)
        if at != 0 and not self.is_arranged:
            self.arrange()  # the request may belong to the first target
            at = at if at in self.order else self.find(now_s)
        if at is None and not self.closed:  # else the request expects another target, without a pause
            self.seen = ()
            at = self.find(now_s)
        return at

    def began(self, now_s: float) -> None:
        """Count one more attempt at the current target until `ended`, and enter its queue until `leave`."""
        if self.admitted is not None:
            self.admitted.repeat_target(self.target.upstream, now_s)
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        self.began_s, settings = now_s, self.route.breaker
        self.targets[self.at].in_flight += 1
        self.is_probe = settings is not None and self.healths[self.at].breaker.begin(now_s, settings)
        if self.route.has_limits and self.ticket is None:
            ticket, queue = asyncio.Event(), self.queue
            self.ticket = ticket
            if (refused := queue.enter(ticket, self.caller.name, self.caller.weight)) is not None:
                refused.set()
            if ticket in queue.waiting:
                self.position = len(queue.waiting)

    @property
    def queue(self) -> FairQueue[asyncio.Event]:
        return self.state.upstreams[self.target.upstream].state.queue

    @property
    def waits(self) -> bool:
        """Whether the upstream is full. The request then waits for a place, or there was no room for it."""
        return self.ticket is not None and self.ticket not in self.queue.holding

    def leave(self) -> None:
        """Give the place at the upstream to the next request, or stop to wait for one. It may be called again."""
        ticket, self.ticket = self.ticket, None
        if ticket is not None and (served := self.queue.leave(ticket)) is not None:
            served.set()

    def _full(self) -> Collection[int]:
        upstreams, targets = self.state.upstreams, self.route.targets
        return [at for at, target in enumerate(targets) if upstreams[target.upstream].state.queue.is_full]

    def ended(self, now_s: float, outcome: Outcome, error: BaseException | None, *, was_asked: bool) -> None:
        """End the attempt. `was_asked`: its target had the request."""
        at, route = self.at, self.route
        target, health, name = self.targets[at], self.healths[at], route.full_names[at]
        target.in_flight -= 1
        if health is not target:
            name = f"{self.target.upstream}/{self.call.model}"
        failed: bool | None = False
        code = ""
        if outcome is not COMPLETE:
            if not self.is_arranged:  # what follows may need it
                self.arrange()
            status, limited = 0, False
            if isinstance(error, GatepassError):
                status, wait_s, code = error.http_status, error.retry_after_s, error.public_code
                limited = outcome in REPLIES and is_limited(status, wait_s)
                if limited and wait_s is None and isinstance(error, UpstreamErrorReply):
                    wait_s = quota_reset_s(error.relayed, self.state.clock.wall())
                has_cooldown = limited and route.has_cooldown and not concerns_size(error)
                if wait_s and has_cooldown and health.limit(now_s, wait_s):
                    fields = {"target": name, "wait_s": math.ceil(health.limited_until_s - now_s)}
                    LOG.info("target_waits", extra={"fields": fields})
                limited = limited and bool(wait_s or status < SERVER_ERROR)  # a 503 without a wait keeps nothing away
            says_something = was_asked and not (isinstance(error, UpstreamError) and error.of_request)
            failed = (says_something and has_failed(outcome, status, is_limited=limited)) or None
        breaker, settings = health.breaker, route.breaker
        if settings is None:
            return
        if breaker.end(now_s, settings, self.began_s, failed=failed, is_probe=self.is_probe):
            fields = {"target": name}
            if breaker.ejected_s is None:
                LOG.info("target_recovered", extra={"fields": fields})
            else:
                target.ejected_times += 1
                fields |= {"ejected_s": round(breaker.until_s - now_s), "cause": breaker.cause, "code": code}
                LOG.warning("target_ejected", extra={"fields": fields})

    def wait_s(self, now_s: float) -> float:
        """Return the shortest wait that a target asked for, 0 if one may be asked now, or none at all."""
        if not self.route.has_cooldown:
            return 0.0
        return min((self.healths[at].asked_s(now_s) for at in self.order), default=0.0)

    def pause_s(self, error: GatepassError, now_s: float) -> float:
        """Return the seconds to wait before the next attempt, `inf` if that is too long for a request to wait."""
        if self.find(now_s) is not None:
            return 0.0
        asked_s = self.wait_s(now_s) if len(self.order) > 1 else error.retry_after_s or 0.0
        pause = asked_s + pause_s(self.repeats)  # requests that wait for one target do not ask it all at once
        return pause if pause <= MOST_PAUSE_S else math.inf

    def unavailable(self, model: str, now_s: float) -> GatepassError:
        if self.closed and self.admitted is not None and (refused := self.admitted.refused) is not None:
            fits = not refused.limit.counts_tokens or self.admitted.tokens <= refused.limit.most
            return limit_reached(refused) if fits else never_fits(refused.limit, self.admitted.tokens)
        whose = f"Every target of the model {model!r}"
        if len(self.order) < len(self.healths):
            whose = f"The target of the model {model!r} for the object that the request names"
        wait_s = self.wait_s(now_s)
        message = f"{whose} asked to wait, for at least {math.ceil(wait_s)} s."
        limited = Limited("targets_limited", message, retry_after_s=wait_s)
        limited.should_retry = None if wait_s <= LONGEST_TARGETS_WAIT_S else False
        return limited

    def shorten_wait(self, error: GatepassError, now_s: float) -> None:
        """Let `error` ask for the wait of the target that is free first."""
        is_refused = isinstance(error, UpstreamErrorReply) and is_limited(error.http_status, error.retry_after_s)
        if is_refused and self.route.has_cooldown and not concerns_size(error):
            wait_s = self.wait_s(now_s)
            error.retry_after_s = wait_s or None
            error.relayed = tuple(field for field in error.relayed if field[0] != b"retry-after-ms")
            if error.should_retry is not False:
                error.should_retry = None if wait_s <= LONGEST_TARGETS_WAIT_S else False


LONGEST_TARGETS_WAIT_S = 60.0
"""If all targets of a model wait longer, no retry of a client helps: SDKs sleep through it, or retry too early. One
upstream alone may ask for `error_objects.LONGEST_WAIT_S`."""
