"""The one owner of a credential's token: it keeps one ready, and gives no dead one away."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import NoReturn

from gatepass.errors import TokenUnavailable
from gatepass.observe.redaction import Redactor
from gatepass.runtime import Clock, Tasks
from gatepass.tokens.backoff import Setback, at_once, probing, setback
from gatepass.tokens.failure import FetchFailure, TokenReissued
from gatepass.tokens.flight import Pilot
from gatepass.tokens.journal import Journal
from gatepass.tokens.life import SPACING_S, Token, issued_again, refresh_s
from gatepass.tokens.rejection import ANYBODY, Rejections, User
from gatepass.tokens.source import TokenSource
from gatepass.tokens.status import Status, sight
from gatepass.tokens.waiters import Waiters

GRACE_S = 0.25
"""Beyond the budget: a fetch that has used it up ends with words of its own."""
OUTAGE_WAIT_S = 1.0
"""How long a request waits for a try that is under way while the issuer is known to be failing."""
PROBES = 2
"""Tries under way at once in an outage: the oldest has its full time, a newer one meets the recovery."""
NAP_S = 5.0
"""The keeper looks at the clock this often: timers stand still while a machine is suspended."""
WATCH_S = 2.0
"""The same, while a change of the secret's file would make a difference."""
SHORTEST_RETRY_S = 1.0
REFUSERS = 1024
"""So many are kept from a token that they refused; more than that see their upstream's own answer."""


class TokenHolder:
    """Fetches through `source`, one flight at a time however many wait.

    `start` wants a running loop; it begins to mint and returns. From then on a task of the
    holder's own refreshes the token ahead of its end and goes on trying after failures, without
    traffic too. All decisions are made on `clock.now()` at the moment of the call. `budget_s` is
    how long a request waits at most; `chance` gives 0 to 1 for jitter. `refused` is told of each value that
    an upstream refused, before it is fetched anew.
    """

    def __init__(
        self,
        name: str,
        source: TokenSource,
        clock: Clock,
        redactor: Redactor,
        *,
        budget_s: float,
        refused: Callable[[str], object] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._clock = clock
        self._budget_s = budget_s
        self._chance = chance
        self._journal = Journal(name, redactor)
        self._pilot = Pilot(source, clock, self._journal, budget_s, chance)
        self._refused = refused
        self._rejections = Rejections()
        self._refusers: set[User] = set()
        self._waiters = Waiters(clock)
        self._token: Token | None = None
        self._last: Token | None = None
        self._expires_s = self._refresh_s = self._floor_s = -math.inf
        self._jitter = 0.0
        self._setback: Setback | None = None
        self._runs: list[asyncio.Task[Token]] = []
        self._tasks: Tasks | None = None
        self._rouse: Callable[[], object] = lambda: None
        self._closed = False

    def __repr__(self) -> str:
        return f"TokenHolder({self.name})"

    def start(self) -> None:
        """Begin to keep a token, in the background: an issuer that is down stops nobody's start."""
        if self._tasks is not None:
            raise RuntimeError(f"{self!r} has been started already")
        self._tasks = Tasks()
        self._begin_keeping(self._tasks)

    async def aclose(self) -> None:
        """End all that runs for this holder; who waits is told. What a fetch still brings is dropped."""
        self._closed = True
        self._runs.clear()
        if self._tasks is not None:
            await self._tasks.aclose()
        self._waiters.wake()

    def fresh(self, by: User = ANYBODY) -> Token | None:
        """The token, where a valid one is held that `by` has not refused; never waits."""
        if self._clock.now() >= self._expires_s or (self._refusers and by in self._refusers):
            return None
        return self._token

    @property
    def usable(self) -> bool:
        """Whether a valid token is held, and not all that is known of it is that it was refused."""
        return self._clock.now() < self._expires_s and not self._is_refused()

    async def token(self, instead_of: str | None = None, by: User = ANYBODY) -> Token:
        """A valid token for `by`: at once where one is held, else from the flight that all share.

        Waits `budget_s` (and GRACE_S) at most, OUTAGE_WAIT_S while the issuer is failing. Raises
        TokenUnavailable with the issuer's reason; after `reject(value)` pass the value as
        `instead_of`, and TokenReissued tells that the issuer has no other token.
        """
        arrived_s = self._clock.now()
        while True:
            if (token := self.fresh(by)) is not None:
                if instead_of is not None and token.text == instead_of:
                    raise TokenReissued("the issuer gave the token again that was refused", credential=self.name)
                return token
            now = self._clock.now()
            self._launch_if_due(now)
            patience_s = arrived_s + self._patience_s() - now
            if not self._runs or patience_s <= 0:
                raise self._unavailable(now)
            await self._waiters.wait(patience_s)

    def confirm(self, token: Token, by: User = ANYBODY) -> None:
        """`by` took `token`: its rejection from now on means that it has ended, nothing worse."""
        if token is self._token:
            self._rejections.confirm(token, by, self._clock.now())

    def reject(self, value: str, by: User = ANYBODY) -> bool:
        """`by` refused the token `value`: give it to `by` no more, and fetch another. Those who have not
        refused it go on with it until its successor is here.

        True: ask `token(instead_of=value, by=by)` for another. False: there will be none, because the
        issuer stands by this one or has been asked too often for `by` (see Rejections): show the
        upstream's own answer.
        """
        token, now = self._token, self._clock.now()
        if token is None or token.text != value or by in self._refusers:
            return True
        if self._closed or self._rejections.resting(value, now) or len(self._refusers) >= REFUSERS:
            return False
        if not self._refusers:
            if not self._rejections.grant(token, by, now):
                return False
            self._rejections.note(value)
            self._refused(value)
            self._refresh_s = self._floor_s = -math.inf
        self._refusers.add(by)
        self._launch_if_due(now)
        return True

    def offer(self, token: Token) -> bool:
        """Another process has minted `token`: take it where it lives and is newer; True if so."""
        last = self._last
        is_newer = last is None or (token.text != last.text and token.born_s > last.born_s)
        if self._closed or not is_newer or self._clock.now() >= token.expires_s:
            return False
        self._journal.found(token)
        self._adopt(token)
        self._waiters.wake()
        self._rouse()
        return True

    def rejected_again(self, by: User = ANYBODY) -> None:
        """`by` refused the token too that came instead of a rejected one: that fetch was in vain."""
        self._rejections.in_vain(by, self._clock.now())

    def status(self) -> Status:
        now, next_s, error_s = self._clock.now(), self._due_s(), self._journal.last_error_s
        return Status(
            credential=self.name,
            **asdict(sight(None if self._is_refused() else self._token, now, self._jitter)),
            fetches=self._journal.fetches,
            failures=self._journal.failures,
            last_error=self._journal.last_error,
            last_error_age_s=None if error_s is None else now - error_s,
            failing=self._setback is not None,
            refreshing=bool(self._runs),
            next_try_in_s=max(0.0, next_s - now) if math.isfinite(next_s) else None,
        )

    def _is_refused(self) -> bool:
        return bool(self._refusers) and not self._rejections.is_taken(self._token, self._refusers)

    def _due_s(self) -> float:
        """When the next fetch is to start."""
        if self._setback is not None:
            return self._setback.next_try_s
        return math.inf if self._runs else min(self._refresh_s, self._expires_s)

    def _launch_if_due(self, now: float) -> None:
        if self._closed or now < self._due_s():
            return
        if self._tasks is None:
            raise RuntimeError(f"{self!r} has not been started")
        flight = self._pilot.fly(self._last, self._floor_s, quick=self._setback is None)
        if self._setback is not None:
            self._setback = probing(self._setback, now, self._chance())
        while len(self._runs) >= PROBES:
            self._runs.pop().cancel()
        run = self._tasks.spawn(flight, f"fetch of {self.name}")
        self._runs.append(run)
        run.add_done_callback(self._landed)

    def _landed(self, run: asyncio.Task[Token]) -> None:
        error = asyncio.CancelledError() if run.cancelled() else run.exception()
        if run not in self._runs:
            return
        self._runs.remove(run)
        if error is None:
            self._adopt(run.result())
        else:
            self._set_back(error)
        self._waiters.wake()
        self._rouse()

    def _adopt(self, token: Token) -> None:
        now = self._clock.now()
        while self._runs:
            self._runs.pop().cancel()
        self._jitter = self._chance()
        self._refresh_s = refresh_s(token, again=issued_again(token, self._last), now=now, jitter=self._jitter)
        self._floor_s = token.born_s + SPACING_S
        self._token, self._expires_s, self._last = token, token.expires_s, token
        self._refusers = set()
        self._setback = None
        self._rejections.minted(token.text, now)

    def _set_back(self, error: BaseException) -> None:
        if isinstance(error, FetchFailure):
            failure = error
        else:
            failure = FetchFailure(f"the source broke ({type(error).__name__}): a bug", quick=False)
            failure = self._journal.failed(failure, 0.0, self._clock.now(), bug=error)
        self._setback = setback(self._setback, failure, self._clock.now(), self._chance())

    def _patience_s(self) -> float:
        longest_s = self._budget_s + GRACE_S
        return longest_s if self._setback is None else min(longest_s, OUTAGE_WAIT_S)

    def _unavailable(self, now: float) -> TokenUnavailable:
        if self._closed:
            return TokenUnavailable(f"credential {self.name} is closed", credential=self.name)
        reason, retry_s = f"the issuer has not answered within {self._budget_s:g} s", SHORTEST_RETRY_S
        if self._setback is not None:
            reason, retry_s = self._setback.reason, max(SHORTEST_RETRY_S, self._setback.next_try_s - now)
            if self._setback.definite:
                again = f"tried again in {math.ceil(retry_s)} s{self._pilot.next_secret}"
                reason = f"{reason.rstrip('.')}; {again}"
        message = f"no token for credential {self.name}: {reason}"
        return TokenUnavailable(message, credential=self.name, retry_after_s=retry_s)

    def _begin_keeping(self, tasks: Tasks, pause_s: float = 0.0) -> None:
        wake = asyncio.Event()
        self._rouse = wake.set
        keeper = tasks.spawn(self._keep(wake, pause_s), f"keeper of {self.name}")
        keeper.add_done_callback(partial(self._kept_on, tasks))

    def _kept_on(self, tasks: Tasks, keeper: asyncio.Task[NoReturn]) -> None:
        """Only `aclose` ends the keeping: a keeper that broke over a source's bug is told of, and followed."""
        if self._closed or keeper.cancelled() or (error := keeper.exception()) is None:
            return
        self._set_back(error)
        self._begin_keeping(tasks, NAP_S)

    async def _keep(self, wake: asyncio.Event, pause_s: float) -> NoReturn:
        if pause_s > 0:
            await self._nap(wake, pause_s)
        while True:
            if self._watches_secret() and self._pilot.secret_changed():
                self._heed_changed_secret(self._clock.now())
            self._launch_if_due(self._clock.now())
            nap_s = WATCH_S if self._watches_secret() else NAP_S
            await self._nap(wake, min(nap_s, max(0.0, self._due_s() - self._clock.now())))

    async def _nap(self, wake: asyncio.Event, nap_s: float) -> None:
        timer = self._clock.call_later(nap_s, wake.set)
        try:
            await wake.wait()
        finally:
            timer.cancel()
        wake.clear()

    def _watches_secret(self) -> bool:
        """Whether a change of the secret matters now: the issuer refused it, or what is held came by the old one."""
        if self._setback is not None:
            return self._setback.definite
        return self._token is not None and not self._runs

    def _heed_changed_secret(self, now: float) -> None:
        self._refresh_s = now
        if self._setback is not None:
            self._setback = at_once(self._setback, now)
