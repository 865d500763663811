"""Failover: the way of one request over the targets of its route.

It asks `next_target` (policy/balancing.py) where an attempt goes, and notes how it ended. `decide` (retry.py) decides
whether there is another attempt.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import Self

import msgspec

from gatepass.auth.caller import Caller
from gatepass.errors import GatepassError, Limited, UpstreamError, UpstreamErrorReply
from gatepass.fair_queue import FairQueue
from gatepass.observability.observer import AttemptRecord
from gatepass.observability.story import attempts_of
from gatepass.policy.balancing import AVAILABLE, WAYS, NoTarget, TargetHealth, next_target, ranked
from gatepass.policy.limits import Refused
from gatepass.policy.retry_budget import RetryBudget, pause_s
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.admission import Admitted, limit_reached, never_fits
from gatepass.proxy.app_state import AppState, Place
from gatepass.proxy.retry import COMPLETE, REPLIES, Outcome, concerns_size, has_failed, is_limited
from gatepass.proxy.routing import Route
from gatepass.types import SERVER_ERROR, Call, ClientRequest, Hidden, Target, header, wait_text

LOG = logging.getLogger("gatepass.targets")

MOST_PAUSE_S = 10.0
"""The longest time for which a request waits in gatepass before its next attempt. A client that waits can show it."""
LONGEST_TARGETS_WAIT_S = 60.0
"""If all targets of a model wait longer, no retry of a client helps: SDKs sleep through it, or retry too early. One
upstream alone may ask for `error_objects.LONGEST_WAIT_S`."""
SESSIONS = (b"x-claude-code-session-id", b"session-id", b"session_id", b"conversation_id")
"""The fields in which Claude Code and versions of Codex name their conversation."""
MOST_NAME_BYTES = 256
"""The longest name of a conversation that is used."""
UNREAD_S = 30.0
"""From then on, a stream that its client does not read can lose its place to another caller."""
NEXT_UNREAD_S = 1.0
"""Between two that are aborted for one request: others may get the first place."""


def _conversation(call: Call, request: ClientRequest) -> bytes:
    """Return what prefers one target: the caller with the conversation that the request names, or the caller alone.

    A request that stores an object, or names a stored one, has the caller alone, so that all meet the same target.
    """
    caller = call.caller.encode()
    if call.names_stored or call.operation.is_about_stored:
        return caller
    top, stores = call.opened(), PROTOCOLS[call.operation.protocol].stores
    store, named = top.get("store"), top.get("prompt_cache_key")
    if top.get("background") or store or (stores and store is not False):
        return caller
    names = [named.encode() if isinstance(named, str) else b"", *(header(request.headers, one) for one in SESSIONS)]
    name = next((one for one in names if one and len(one) <= MOST_NAME_BYTES), None)
    return caller if name is None else b"%d\0%b%b" % (len(caller), caller, name)


class Failover(Hidden, msgspec.Struct, eq=False):
    """The targets of one request, with those that were tried. `async with` gives back its place at an upstream.

    Each attempt has one `choose` or `repeat`, and one `ended`.
    """

    state: AppState
    call: Call
    request: ClientRequest
    caller: Caller
    route: Route
    targets: Sequence[TargetHealth]
    """Where the requests in progress are counted."""
    healths: Sequence[TargetHealth]
    """Where waits and ejections are kept: the same, or for the target of a pattern that of the model."""
    order: Sequence[int]
    """The places of the targets, the preferred one first."""
    make_place: Callable[[], Place]
    admitted: Admitted | None = None
    """What the request takes of the limits of upstreams. None without limits."""
    at: int = 0
    tried: tuple[int, ...] = ()
    """The places that were tried since all of them could be."""
    used_up: Mapping[int, Refused] = {}
    """The places of targets whose upstream had used up its limits at the last `choose`, and which of them."""
    repeats: int = 0
    """The attempts that only the policy allowed."""
    began_s: float = 0.0
    is_probe: bool = False
    probes_wait: bool = False
    """The current attempt is the probe of a wait that other callers' requests began."""
    place: Place | None = None
    """What holds a place at the upstream of the current target, or waits for one. None if nothing is limited."""

    @classmethod
    def begin(
        cls,
        state: AppState,
        route: Route,
        call: Call,
        request: ClientRequest,
        caller: Caller,
        make_place: Callable[[], Place],
        admitted: Admitted | None = None,
    ) -> Self:
        targets = healths = state.healths_of(route)
        if route.is_pattern:
            states = [state.upstreams[target.upstream].state for target in route.targets]
            named = [target.model is not None for target in route.targets]
            healths = [targets[at] if named[at] else one.of_model(call.model) for at, one in enumerate(states)]
        order: Sequence[int] = range(len(targets))
        is_pinned = (call.names_stored or call.operation.is_about_stored) and len(targets) > 1
        if route.policy != "order":
            is_kept = WAYS[route.policy].keeps_callers and PROTOCOLS[call.operation.protocol].prefers_one_target
            key = _conversation(call, request) if is_kept else None
            if key is not None or not is_pinned:
                # a stored object is at its target even if that has many requests
                loads = [0 if is_pinned else one.in_flight for one in targets]
                order = ranked(route.policy, route.full_names, route.weights, loads, key)
        order = order[:1] if is_pinned else order
        failover = cls(state, call, request, caller, route, targets, healths, order, make_place, admitted)
        if (budget := failover.budget) is not None:
            budget.add(is_repeat=False)
        return failover

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    @property
    def target(self) -> Target:
        return self.route.targets[self.at]

    @property
    def queue(self) -> FairQueue[Place]:
        return self.state.upstreams[self.target.upstream].state.queue

    @property
    def budget(self) -> RetryBudget | None:
        """The requests of the model and their repeats. None if nothing may run twice."""
        return self.state.repeats[self.route.entry] if self.route.repeats_run else None

    @property
    def may_repeat(self) -> bool:
        """Whether the policy may repeat the request. It repeats neither a client's own repeat nor a request that names
        a stored object."""
        if self.repeats + 1 >= self.route.attempts or len(self.order) < len(self.targets):
            return False
        return header(self.request.headers, b"x-stainless-retry-count") in (None, b"", b"0")

    def next(self, now_s: float) -> int | NoTarget:
        """Return the place of the best target that was not tried, or why there is none."""
        breaker, waits = self.route.breaker, self.route.has_cooldown
        standings = [
            one.standing(now_s, breaker, self.caller.identity, has_cooldown=waits, is_full=self._is_full(at))
            for at, one in enumerate(self.healths)
        ]
        return next_target(self.order, self.tried, standings, self.used_up)

    def _is_full(self, at: int) -> bool:
        upstream = self.route.targets[at].upstream
        return self.route.has_limits and self.state.upstreams[upstream].state.queue.is_full

    async def choose(self, now_s: float) -> NoTarget | None:
        """Begin an attempt at the best target: one that was not tried, or any. Return why there is none.

        A target whose upstream has used up its limits takes none. Raises Limited.
        """
        self.used_up, admitted = {}, self.admitted
        while isinstance(at := self._next_or_any(now_s), int):
            upstream = self.route.targets[at].upstream
            if admitted is None:
                break
            if (refused := await admitted.take_target(upstream, now_s)) is not None:
                self.used_up = {**self.used_up, at: refused}
            elif self._next_or_any(now_s) == at:
                break
            else:  # it became unavailable while the store answered
                admitted.leave_target(now_s, None, "", sent=False)
        if isinstance(at, NoTarget):
            return at
        self.at, self.tried = at, (*self.tried, at)
        self._begin(now_s)
        return None

    def _next_or_any(self, now_s: float) -> int | NoTarget:
        if (at := self.next(now_s)) is NoTarget.TRIED:
            self.tried = ()
            at = self.next(now_s)
        return at

    def repeat(self, now_s: float) -> None:
        """Begin one more attempt at the current target, in the same place."""
        if self.admitted is not None:
            self.admitted.repeat_target(self.target.upstream, now_s)
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        self.began_s, settings = now_s, self.route.breaker
        self.targets[self.at].in_flight += 1
        health = self.healths[self.at]
        self.is_probe = settings is not None and health.breaker.begin(now_s, settings)
        self.probes_wait = self.route.has_cooldown and health.begin_probe(now_s, self.caller.identity)
        if self.route.has_limits and self.place is None:
            self.place = self.make_place()
            if (refused := self.queue.enter(self.place, self.caller.identity, self.caller.weight)) is not None:
                refused.set()

    def leave(self) -> None:
        """Give the place at the upstream to the next request, or stop to wait for one. It may be called again."""
        place, self.place = self.place, None
        if place is not None and (served := self.queue.leave(place)) is not None:
            served.set()

    def end_unread(self) -> float:
        """Abort a stream that keeps the request from a place, and return the time until there may be another one.

        It is a stream of a caller with more places, of these the one with the most, and was unread longest.
        """
        held = [place for place in self.queue.holding if not place.is_aborted]
        places = Counter(place.caller for place in held)
        own = places[self.caller.identity]
        others = [(places[one.caller], one.unread_s(), one) for one in held if places[one.caller] > own]
        late = [one for one in others if one[1] >= UNREAD_S]
        if late:
            max(late, key=itemgetter(0, 1))[2].abort()
        if len(late) > 1:
            return NEXT_UNREAD_S
        return UNREAD_S - max((unread_s for _, unread_s, _ in others if unread_s < UNREAD_S), default=0.0)

    def answered(self, now_s: float, *, succeeded: bool = True) -> None:
        """Note that the target answered the current attempt, whose stream may last: a wait may be over."""
        probes, self.probes_wait = self.probes_wait, False
        if probes and self.healths[self.at].end_probe(now_s, self.began_s, succeeded=succeeded):
            LOG.info("target_recovered", extra={"fields": {"target": self._name}})

    def ended(self, now_s: float, outcome: Outcome, error: BaseException | None, *, was_asked: bool) -> None:
        """End the attempt. `was_asked`: its target had the request."""
        target, breaker, settings = self.targets[self.at], self.healths[self.at].breaker, self.route.breaker
        target.in_flight -= 1
        self.answered(now_s, succeeded=outcome is COMPLETE)
        failed: bool | None = False
        if outcome is not COMPLETE:
            limited = outcome in REPLIES and isinstance(error, GatepassError) and self._pass_over(now_s, error)
            says_something = was_asked and not (isinstance(error, UpstreamError) and error.of_request)
            status = error.http_status if isinstance(error, GatepassError) else 0
            failed = (says_something and has_failed(outcome, status, is_limited=limited)) or None
        if settings is None:
            return
        if breaker.end(now_s, settings, self.began_s, failed=failed, is_probe=self.is_probe):
            fields: dict[str, object] = {"target": self._name}
            if breaker.ejected_s is None:
                LOG.info("target_recovered", extra={"fields": fields})
            else:
                target.ejected_times += 1
                code = error.public_code if isinstance(error, GatepassError) else ""
                fields |= {"ejected_s": round(breaker.until_s - now_s), "cause": breaker.cause, "code": code}
                LOG.warning("target_ejected", extra={"fields": fields})

    def _pass_over(self, now_s: float, error: GatepassError) -> bool:
        """Pass the target over if `error` asks for it. Return whether `error` refused the request for now."""
        status, wait_s = error.http_status, error.retry_after_s
        if not is_limited(status, wait_s):
            return False
        health = self.healths[self.at]
        has_cooldown = self.route.has_cooldown and not concerns_size(error)
        if wait_s and has_cooldown and health.limit(now_s, wait_s, self.caller.identity):
            fields = {"target": self._name, "wait_s": math.ceil(health.limited_until_s - now_s)}
            LOG.info("target_waits", extra={"fields": fields})
        return bool(wait_s) or status < SERVER_ERROR  # a 503 without a wait keeps nothing away

    @property
    def _name(self) -> str:
        is_of_model = self.healths[self.at] is not self.targets[self.at]
        return f"{self.target.upstream}/{self.call.model}" if is_of_model else self.route.full_names[self.at]

    def wait_s(self, now_s: float, without: Collection[int] = ()) -> float:
        """Return the shortest wait for a target, 0 if one may be asked now that is not `without`, or none at all."""
        waits_s = []
        for at in self.order:
            asked_s = self.healths[at].asked_s(now_s, self.caller.identity) if self.route.has_cooldown else 0.0
            wait_s = self.used_up[at].wait_s if at in self.used_up else asked_s
            waits_s += [wait_s] if wait_s or at not in without else []
        return min(waits_s, default=0.0)

    def pause_s(self, error: GatepassError, now_s: float) -> float:
        """Return the seconds to wait before the next attempt, `inf` if that is too long for a request to wait."""
        asked_s = self.wait_s(now_s) if len(self.order) > 1 else error.retry_after_s or 0.0
        pause = asked_s + pause_s(self.repeats)  # requests that wait for one target do not ask it all at once
        return pause if pause <= MOST_PAUSE_S else math.inf

    def unavailable(self, now_s: float) -> GatepassError:
        """Return the error of a request that no target takes."""
        wait_s = self.wait_s(now_s, self.tried)
        for refused in self.used_up.values():
            if self.admitted is not None and refused.wait_s == wait_s:
                says = never_fits(refused.limit, self.admitted.tokens)
                return says if math.isinf(wait_s) else limit_reached(refused, self.admitted.tokens)
        whose = f"Every target of the model {self.call.model!r}"
        if len(self.order) < len(self.healths):
            whose = f"The target of the model {self.call.model!r} for the object that the request names"
        names = ", ".join(dict.fromkeys(self.route.targets[at].upstream for at in self.order))
        message = f"{whose} asked to wait, for at least {wait_text(wait_s)}: {names}."
        limited = Limited("targets_limited", message, retry_after_s=wait_s)
        limited.should_retry = None if wait_s <= LONGEST_TARGETS_WAIT_S else False
        return limited

    def others(self, last: AttemptRecord, now_s: float) -> str:
        """Return a sentence about the targets that failed before the `last` attempt or are kept away, "" for none."""
        why = {(one.upstream, one.upstream_model): one.kind for one in attempts_of(last.after)}
        for target, health in zip(self.route.targets, self.healths, strict=True):
            word, _ = health.state(now_s, self.route.breaker, has_cooldown=self.route.has_cooldown)
            if word != AVAILABLE:
                why.setdefault((target.upstream, target.model), word)
        why.pop((last.upstream, last.upstream_model), None)
        named = ", ".join(dict.fromkeys(f"{upstream} ({word})" for (upstream, _), word in why.items()))
        return named and f"Other targets of the model failed too: {named}."

    def shorten_wait(self, error: GatepassError, now_s: float) -> None:
        """Let `error` ask for the wait of the target that is free first."""
        is_refused = isinstance(error, UpstreamErrorReply) and is_limited(error.http_status, error.retry_after_s)
        if is_refused and self.route.has_cooldown and not concerns_size(error):
            wait_s = self.wait_s(now_s, self.tried)  # those that were tried cannot be asked now
            if math.isinf(wait_s) or (wait_s > LONGEST_TARGETS_WAIT_S and not self.wait_s(now_s)):
                wait_s = 0.0  # one that was tried may have room, or asked for no wait
            error.retry_after_s = wait_s or None
            error.relayed = tuple(field for field in error.relayed if field[0] != b"retry-after-ms")
            if error.should_retry is not False:
                error.should_retry = None if wait_s <= LONGEST_TARGETS_WAIT_S else False
