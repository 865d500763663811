"""The one owner of a credential's token: it keeps one ready, and gives no dead one away."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import asdict

from gatepass.errors import TokenUnavailable
from gatepass.observe.redaction import Redactor
from gatepass.runtime import Clock, Tasks
from gatepass.tokens.backoff import Setback, at_once, probing, setback, silence, silent_s
from gatepass.tokens.counted import counted
from gatepass.tokens.failure import FetchFailure, TokenReissued
from gatepass.tokens.flight import Pilot
from gatepass.tokens.journal import Journal
from gatepass.tokens.keeper import Keeper
from gatepass.tokens.life import SPACING_S, Token, issued_again, refresh_s
from gatepass.tokens.pace import Pace
from gatepass.tokens.patience import Patience
from gatepass.tokens.rejection import ANYBODY, Rejections, User
from gatepass.tokens.runs import Run, Runs
from gatepass.tokens.source import TokenSource
from gatepass.tokens.status import Status, sight
from gatepass.tokens.waiters import Waiters

WATCH_S = 2.0
"""The secret is looked at this often while a change of its file would make a difference."""
REFUSERS = 1024
"""So many are kept from a token that they refused; more than that see their upstream's own answer."""


class TokenHolder:
    """Fetches through `source`, one flight at a time however many wait.

    `start` wants a running loop; it begins to mint and returns. From then on a task of the
    holder's own refreshes the token ahead of its end and goes on trying after failures, without
    traffic too. All decisions are made on `clock.now()` at the moment of the call. `budget_s` is
    how long a request waits at most, and `place` what people know the issuer by; `chance` gives 0 to 1 for jitter.
    `refused` is told of each value that an upstream refused, before it is fetched anew. Where `source` is not
    `repeatable`, a fetch is under way alone, however long it takes.
    """

    def __init__(
        self,
        name: str,
        source: TokenSource,
        clock: Clock,
        redactor: Redactor,
        *,
        budget_s: float,
        place: str = "the issuer",
        refused: Callable[[str], object] = lambda _: None,
        repeatable: bool = True,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._clock = clock
        self._patience = Patience(name, place, budget_s)
        self._chance = chance
        self._journal = Journal(name, redactor)
        self._source = counted(source, clock)
        self._pilot = Pilot(self._source, clock, self._journal, budget_s, chance)
        self._pace = Pace(budget_s)
        self._refused = refused
        self._repeatable = repeatable
        self._rejections = Rejections()
        self._refusers: set[User] = set()
        self._waiters = Waiters(clock)
        self._token: Token | None = None
        self._last: Token | None = None
        self._expires_s = self._refresh_s = self._floor_s = -math.inf
        self._jitter = 0.0
        self._setback: Setback | None = None
        self._runs = Runs()
        self._tasks: Tasks | None = None
        self._keeper = Keeper(name, clock, self._tend, self._set_back)
        self._closed = False

    def __repr__(self) -> str:
        return f"TokenHolder({self.name})"

    def start(self) -> None:
        """Begin to keep a token, in the background: an issuer that is down stops nobody's start."""
        if self._tasks is not None:
            raise RuntimeError(f"{self!r} has been started already")
        self._tasks = Tasks()
        self._keeper.start(self._tasks)

    async def aclose(self) -> None:
        """End all that runs for this holder; who waits is told. What a fetch still brings is dropped."""
        self._closed = True
        self._runs.let_go()
        self._keeper.stop()
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

        Waits `budget_s` (and a moment) at most, a second while the issuer is failing. Raises
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
            patience_s = arrived_s + self._patience.wait_s(self._trouble) - now
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
            self._pace.refused(token, now)
            self._refresh_s = self._floor_s = -math.inf
        self._refusers.add(by)
        self._launch_if_due(now)
        self._keeper.rouse()
        return True

    def offer(self, token: Token) -> bool:
        """Another process has minted `token`: take it where it lives and is newer; True if so."""
        if not self._wants(token):
            return False
        self._journal.found(token)
        self._adopt(token)
        self._waiters.wake()
        self._keeper.rouse()
        return True

    def _wants(self, token: Token) -> bool:
        """Whether `token` was asked for later than what is held, and lives."""
        last, now = self._last, self._clock.now()
        is_newer = last is None or (token.text != last.text and token.born_s > last.born_s)
        return is_newer and not self._closed and now < token.expires_s

    def rejected_again(self, by: User = ANYBODY) -> None:
        """`by` refused the token too that came instead of a rejected one: that fetch was in vain."""
        self._rejections.in_vain(by, self._clock.now())

    def status(self) -> Status:
        now, next_s, error_s = self._clock.now(), self._due_s(), self._journal.last_error_s
        return Status(
            credential=self.name,
            **asdict(sight(None if self._is_refused() else self._token, now, self._jitter)),
            fetches=self._source.fetches,
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

    def _start_s(self) -> float:
        """The same, and when it is to start beside the one that is under way."""
        if not self._runs:
            return self._due_s()
        if not self._repeatable:
            return math.inf
        if self._setback is not None:
            return self._setback.next_try_s
        without_s = -math.inf if self._refusers else self._expires_s
        return silent_s(max(self._runs.begun_s, self._pilot.tried_s), self._pace.usual_s, without_s)

    def _launch_if_due(self, now: float) -> None:
        if self._closed or now < self._start_s():
            return
        if self._tasks is None:
            raise RuntimeError(f"{self!r} has not been started")
        if self._runs and self._setback is None:
            self._setback = silence(now)
        is_first = self._setback is None
        flight = self._pilot.fly(self._last, self._floor_s, quick=is_first)
        if self._setback is not None:
            self._setback = probing(self._setback, now, self._chance())
        run = self._tasks.spawn(flight, f"fetch of {self.name}")
        self._runs.add(run, now, awaited=is_first)
        run.add_done_callback(self._landed)

    def _landed(self, run: Run) -> None:
        """Of two that end in the same moment the one asked for later counts: an issuer's new token may end the old."""
        error = asyncio.CancelledError() if run.cancelled() else run.exception()
        is_expected = self._runs.remove(run)
        if error is None and (is_expected or self._wants(run.result())):
            self._adopt(run.result())
        elif error is not None and is_expected:
            self._set_back(error)
        else:
            return
        self._waiters.wake()
        self._keeper.rouse()

    def _adopt(self, token: Token) -> None:
        now = self._clock.now()
        self._runs.give_up()
        self._pace.minted(token, alone=self._setback is None)
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
        if self._setback.definite:
            self._runs.let_go()

    @property
    def _trouble(self) -> Setback | None:
        """The setback, once the fetch has ended that people wait for."""
        return None if self._runs.awaited else self._setback

    def _unavailable(self, now: float) -> TokenUnavailable:
        if self._closed:
            return TokenUnavailable(f"credential {self.name} is closed", credential=self.name)
        return self._patience.over(self._trouble, now, self._pilot.next_secret)

    def _tend(self) -> float:
        """Do what is due; the seconds until the next look."""
        if self._watches_secret() and self._pilot.secret_changed():
            self._heed_changed_secret(self._clock.now())
        self._launch_if_due(self._clock.now())
        nap_s = WATCH_S if self._watches_secret() else math.inf
        return min(nap_s, max(0.0, self._start_s() - self._clock.now()))

    def _watches_secret(self) -> bool:
        """Whether a change of the secret matters now: the issuer refused it, or what is held came by the old one."""
        if self._setback is not None:
            return self._setback.definite
        return self._token is not None and not self._runs

    def _heed_changed_secret(self, now: float) -> None:
        self._refresh_s = now
        if self._setback is not None:
            self._setback = at_once(self._setback, now)
