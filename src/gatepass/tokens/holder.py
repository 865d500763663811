"""The owner of one credential's token: keeps one ready, and never hands out an expired one.

How many token renewals the rejections of upstreams may cause.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn

import msgspec

from gatepass.cancel import Tasks
from gatepass.clock import Clock, sleep
from gatepass.errors import TokenUnavailable
from gatepass.observability.redaction import Redactor
from gatepass.tokens.backoff import FailureState, SecretHistory, next_failure_state, quick_wait_s, retry_now
from gatepass.tokens.failure import FetchFailure, TokenReissued, setting
from gatepass.tokens.lifetime import (
    SPACING_S,
    Freshness,
    LifetimeSource,
    Token,
    TokenKind,
    freshness,
    is_reissued,
    refresh_at_s,
    without_extension,
)
from gatepass.tokens.secrets import secret_retry_hint
from gatepass.tokens.source import TokenSource
from gatepass.tokens.token_log import TokenLog

RENEWALS = 20
"""In WINDOW_S, for all users of one credential together."""
UNPROVEN_RENEWALS = 6
"""How many of RENEWALS may follow the rejection of a token by a user that had not accepted it. The rest is kept for
tokens that worked and ended early, so that a model that always refuses takes no renewal from one that is served."""
RENEWAL_SPACING_S = 1.0
"""Between two renewals of tokens that worked: an upstream may answer 401 to every second request."""
WINDOW_S = 60.0
REISSUED_PAUSE_S = 10.0
"""How long a token is not renewed that the issuer returned again after it was rejected."""
MAX_USERS = 1024
"""How many users are remembered: a client may invent model names, which some upstreams answer."""


class TokenUser(msgspec.Struct, frozen=True, gc=False):
    """Whom a token is sent to: an upstream, and a model there, because one model may refuse what another accepts."""

    upstream: str = ""
    model: str = ""


ANY_USER = TokenUser()


class RenewalLimiter:
    """Decides which rejections renew the token.

    A wrong credential is rejected with every request and must not cause a login with every request. A user that
    refused the renewed token too causes no renewal for WINDOW_S, unless it accepts a token meanwhile.
    """

    def __init__(self) -> None:
        self._renewals: deque[float] = deque(maxlen=RENEWALS)
        self._unproven: deque[float] = deque(maxlen=UNPROVEN_RENEWALS)
        self._proven_s = -math.inf
        self._renewal_rejected_s: dict[TokenUser, float] = {}
        self._token: Token | None = None
        self._accepted_by: set[TokenUser] = set()
        self._refused_by: set[TokenUser] = set()
        self._rejected: Token | None = None
        self._paused_until_s = 0.0

    def __repr__(self) -> str:
        return f"Rejections({len(self._renewals)} renewals)"

    @property
    def is_refused(self) -> bool:
        """Whether the current token was refused, and accepted by nobody who has not refused it."""
        return bool(self._refused_by) and self._accepted_by <= self._refused_by

    def is_rejected(self, token: Token) -> bool:
        """Whether `token` itself was rejected: one with the same text that came later was not."""
        return token is self._rejected

    def set_current(self, token: Token, now: float) -> None:
        """`token` is the current one from now on."""
        is_reissued = self._rejected is not None and token.text == self._rejected.text
        self._paused_until_s = now + REISSUED_PAUSE_S if is_reissued else 0.0
        self._token, self._accepted_by, self._refused_by = token, set(), set()

    def accept(self, by: TokenUser) -> None:
        """`by` accepted the current token."""
        if self._refused_by:
            self._refused_by.discard(by)
        if by not in self._accepted_by and len(self._accepted_by) < MAX_USERS:
            self._accepted_by.add(by)

    def reject(self, by: TokenUser, now: float) -> bool:
        """Whether the current token, which `by` refused, is to be renewed."""
        has_accepted = by in self._accepted_by
        is_known_to_reject = self._is_renewal_rejected(by, now)
        if now < self._paused_until_s or (is_known_to_reject and not has_accepted):
            return False
        if self._token is not self._rejected:
            if not self._take_renewal(now, is_proven=has_accepted and not is_known_to_reject):
                return False
            self._rejected = self._token
        if len(self._refused_by) < MAX_USERS:
            self._refused_by.add(by)
        return True

    def denial_reason(self, by: TokenUser, now: float) -> str:
        """Why `reject` has just returned False, in words that end a sentence."""
        if now < self._paused_until_s:
            return "its issuer returned the same token again"
        if self._is_renewal_rejected(by, now) and by not in self._accepted_by:
            rest = f"less than {WINDOW_S:.0f} s ago"
            return f"it was not renewed, because this upstream and model refused a new token {rest}"
        return "it was not renewed, because rejections have used up the credential's rate of renewals"

    def renewal_rejected(self, by: TokenUser, now: float) -> None:
        """`by` refused the renewed token too."""
        if len(self._renewal_rejected_s) >= MAX_USERS:
            self._renewal_rejected_s = {
                user: at_s for user, at_s in self._renewal_rejected_s.items() if now < at_s + WINDOW_S
            }
        if len(self._renewal_rejected_s) < MAX_USERS:
            self._renewal_rejected_s[by] = now

    def _is_renewal_rejected(self, by: TokenUser, now: float) -> bool:
        return by in self._renewal_rejected_s and now < self._renewal_rejected_s[by] + WINDOW_S

    def _take_renewal(self, now: float, *, is_proven: bool) -> bool:
        if _is_full(self._renewals, now):
            return False
        if is_proven:
            if now < self._proven_s + RENEWAL_SPACING_S:
                return False
            self._proven_s = now
        elif _is_full(self._unproven, now):
            return False
        else:
            self._unproven.append(now)
        self._renewals.append(now)
        return True


def _is_full(moments: deque[float], now: float) -> bool:
    return len(moments) == moments.maxlen and now < moments[0] + WINDOW_S


SECRET_POLL_S = 2.0
"""The secret is read this often while a change of its file would make a difference."""
MAX_SLEEP_S = 5.0
"""The keeper looks at the clock this often: timers stand still while a machine is suspended."""
WAIT_MARGIN_S = 0.25
"""Beyond the fetch timeout: a fetch that has used it up ends with an error of its own."""
OUTAGE_WAIT_S = 1.0
"""How long a request waits for a fetch in progress while the issuer is failing."""
SLOW_ATTEMPT_S = 1.0
"""A try that failed later than this is not repeated within its fetch: requests wait for the reason."""
MIN_RETRY_AFTER_S = 1.0
REISSUE_WAIT_S = 3.0
"""How long after its end an issuer may repeat a token before that is a failure: their clocks may differ."""


@dataclass(frozen=True, slots=True)
class Status:
    """One credential at one moment.

    `expires_in_s` runs until the token is not sent any more; None for a key that does not expire, and where no token is
    held. `fetches` counts the tries of this process that ended with a token or a failure. `last_error` stays after a
    recovery: `failing` says whether it is over.
    """

    credential: str
    state: Freshness | Literal["none"]
    kind: TokenKind | None
    lifetime_source: LifetimeSource | None
    age_s: float | None
    expires_in_s: float | None
    fetches: int
    failures: int
    last_error: str | None
    last_error_age_s: float | None
    failing: bool
    refreshing: bool
    next_try_in_s: float | None


@dataclass(frozen=True, slots=True)
class WaitBudget:
    """`budget_s` is how long a request waits for a token at most; `place` names the issuer to it.

    `chance` returns 0 to 1 for jitter.
    """

    budget_s: float
    issuer_name: str = "the issuer"
    random_fraction: Callable[[], float] = random.random


class TokenHolder:
    """Fetches through `source`, one fetch at a time however many requests wait.

    `start` needs a running loop, begins the first fetch and returns. From then on a task of the holder refreshes the
    token ahead of its end and tries again after failures, without traffic too. `on_rejection` is called with each
    rejected token before it is renewed.
    """

    def __init__(
        self, name: str, source: TokenSource, clock: Clock, redactor: Redactor, wait_budget: WaitBudget
    ) -> None:
        self.name = name
        self._source = source
        self._clock = clock
        self._log = TokenLog(name, redactor)
        self._wait_budget = wait_budget
        self.on_rejection: Callable[[str], object] = lambda _: None
        self._rejections = RenewalLimiter()
        self._waiters = Waiters(clock)
        self._token: Token | None = None
        self._expires_at_s = self._refresh_at_s = self._not_before_s = -math.inf
        self._fetch_began_s = self._attempt_began_s = -math.inf
        self._jitter = 0.0
        self._failure_state: FailureState | None = None
        self._history = SecretHistory()
        self._fetch: asyncio.Task[Token] | None = None
        self._secret_hash = 0
        self._secret_hint = ""
        self._tasks: Tasks | None = None
        self._refresh_task = RefreshTask(name, clock, self._run_due, self._fail)
        self._closed = False

    def __repr__(self) -> str:
        return f"TokenHolder({self.name})"

    def start(self) -> None:
        """Begin to keep a token, in the background: a dead issuer does not prevent the start."""
        if self._tasks is not None:
            raise RuntimeError(f"{self!r} has been started already")
        self._tasks = Tasks()
        self._refresh_task.start(self._tasks)

    async def aclose(self) -> None:
        """End all tasks of this holder; waiting requests get TokenUnavailable."""
        self._closed = True
        self._fetch = None
        self._refresh_task.stop()
        if self._tasks is not None:
            await self._tasks.aclose()
        self._waiters.wake()

    def current(self) -> Token | None:
        """Return the token if a valid one is held; never waits."""
        return None if self._clock.now() >= self._expires_at_s else self._token

    @property
    def usable(self) -> bool:
        """Whether a valid token is held, and it is not only known for having been refused."""
        return self._clock.now() < self._expires_at_s and not self._rejections.is_refused

    async def token(self, instead_of: str | None = None) -> Token:
        """Return a valid token: at once where one is held, else from the fetch that all requests share.

        After `reject(value)` returned True pass the value as `instead_of`: this request alone waits for the successor.
        Waits until the fetch in progress has had `budget_s` (and a moment). A request that arrives later, or while the
        issuer is failing, waits a second.

        Raises:
            TokenUnavailable: with the issuer's reason.
            TokenReissued: the issuer has no other token than `instead_of`.
        """
        arrived_s = self._clock.now()
        while True:
            if (token := self.current()) is not None:
                if token.text != instead_of:
                    return token
                if not self._rejections.is_rejected(token):
                    raise TokenReissued("the issuer gave the token again that was refused", credential=self.name)
            now = self._clock.now()
            self._fetch_if_due(now)
            wait_s = self._wait_until_s(arrived_s) - now
            if self._fetch is None or wait_s <= 0:
                raise self._unavailable(now)
            await self._waiters.wait(wait_s)

    def _wait_until_s(self, arrived_s: float) -> float:
        """Return until when a request may wait. A fetch that tries again after a slow failure exceeds its budget."""
        longest_s = self._wait_budget.budget_s + WAIT_MARGIN_S
        least_s = arrived_s + min(longest_s, OUTAGE_WAIT_S)
        return (
            least_s
            if self._failure_state is not None
            else max(least_s, min(arrived_s, self._fetch_began_s) + longest_s)
        )

    def confirm(self, token: Token, by: TokenUser = ANY_USER) -> None:
        """`by` accepted `token`: if it rejects it later, the token has ended early."""
        if token is self._token:
            self._rejections.accept(by)

    def reject(self, value: str, by: TokenUser = ANY_USER) -> bool:
        """`by` refused the token `value`: renew it. Other requests keep it until its successor is here.

        True: call `token(instead_of=value)` for another one. False: none will come, because the issuer returned this
        one again, `by` refused the last renewed token too, or renewals were too frequent (see Rejections): pass on the
        upstream's own answer.
        """
        token, now = self._token, self._clock.now()
        if token is None or token.text != value:
            return True
        is_first = not self._rejections.is_rejected(token)
        if self._closed or not self._rejections.reject(by, now):
            return False
        if is_first:
            self.on_rejection(value)
            self._refresh_at_s = self._not_before_s = -math.inf
            self._fetch_if_due(now)
            self._refresh_task.wake()
        return True

    def not_renewed(self, by: TokenUser = ANY_USER) -> str:
        """Why `reject` has just returned False, in words that end a sentence."""
        return self._rejections.denial_reason(by, self._clock.now())

    def rejected_again(self, by: TokenUser = ANY_USER) -> None:
        """`by` refused the renewed token too: its next rejections renew nothing for a minute."""
        self._rejections.renewal_rejected(by, self._clock.now())

    def adopt_shared(self, token: Token) -> bool:
        """Take `token`, which another process fetched, if it is valid and newer; return whether it was taken."""
        held = self._token
        is_newer = held is None or (token.text != held.text and token.requested_s > held.requested_s)
        if not is_newer or self._closed or self._clock.now() >= token.expires_s:
            return False
        self._log.log_shared(token)
        if self._fetch is not None:
            self._fetch.cancel()
            self._fetch = None
        self._adopt(token)
        return True

    def with_free_tries(self, failure: FetchFailure) -> FetchFailure:
        """Return `failure` with its free tries by the history of the secret. What another process met has its own."""
        if not failure.from_other_process:
            failure = failure.masked(self._log.redactor.mask)
            earned = self._history.free_tries(self._secret_hash, failure)
            failure.free_tries = max(failure.free_tries, earned)
        return failure

    def status(self) -> Status:
        now, due_s, error_s = self._clock.now(), self._due_s(), self._log.last_error_s
        token = None if self._rejections.is_refused else self._token
        return Status(
            credential=self.name,
            state="none" if token is None else freshness(token, now, self._jitter),
            kind=None if token is None else token.kind,
            lifetime_source=None if token is None else token.lifetime_source,
            age_s=None if token is None else now - token.requested_s,
            expires_in_s=None if token is None or token.lifetime_s is None else max(0.0, token.expires_s - now),
            fetches=self._log.fetches,
            failures=self._log.failures,
            last_error=self._log.last_error,
            last_error_age_s=None if error_s is None else now - error_s,
            failing=self._failure_state is not None,
            refreshing=self._fetch is not None,
            next_try_in_s=max(0.0, due_s - now) if math.isfinite(due_s) else None,
        )

    def _due_s(self) -> float:
        """When the next fetch is to start."""
        if self._fetch is not None:
            return math.inf
        return (
            min(self._refresh_at_s, self._expires_at_s)
            if self._failure_state is None
            else self._failure_state.next_try_s
        )

    def _fetch_if_due(self, now: float) -> None:
        if self._closed or now < self._due_s():
            return
        if self._tasks is None:
            raise RuntimeError(f"{self!r} has not been started")
        self._fetch_began_s = max(now, self._not_before_s)
        self._fetch = self._tasks.spawn(self._fetch_token(quick=self._failure_state is None), f"fetch of {self.name}")
        self._fetch.add_done_callback(self._on_end)

    async def _fetch_token(self, *, quick: bool) -> Token:
        """Return a valid token after one try; if `quick` and the failure may pass, after up to three more.

        Near its end, an issuer may repeat the last token until that one has expired: the fetch waits for the next one.

        Raises:
            FetchFailure: of the last try, masked.
        """
        if (early_s := self._not_before_s - self._clock.now()) > 0:
            await sleep(self._clock, early_s)
        began_s, tries = self._clock.now(), 0
        while True:
            tries += 1
            try:
                token = await self._attempt()
            except FetchFailure as failure:
                now = self._clock.now()
                was_slow = (
                    now - self._attempt_began_s > SLOW_ATTEMPT_S
                )  # the waiting requests get the issuer's reason at once
                wait_s = (
                    quick_wait_s(tries, failure, self._wait_budget.random_fraction())
                    if quick and not was_slow
                    else None
                )
                if wait_s is None or now + wait_s >= began_s + self._wait_budget.budget_s:
                    raise
            else:
                now = self._clock.now()
                if now < token.expires_s:
                    return token
                wait_s = max(SPACING_S, token.end_s - now)
                if now + wait_s >= min(began_s + self._wait_budget.budget_s, token.end_s + REISSUE_WAIT_S):
                    raise self._log.log_failed(_expired_on_arrival(token, now), now - token.requested_s, now)
            await sleep(self._clock, wait_s)

    async def _attempt(self) -> Token:
        self._attempt_began_s = began_s = self._clock.now()
        secrets = self._source.secrets()
        self._secret_hash, self._secret_hint = self._log.mask_secrets(secrets), secret_retry_hint(secrets)
        try:
            token = without_extension(await self._source.fetch(), self._token)
            now = self._clock.now()
            if now >= token.expires_s and not is_reissued(token, self._token):
                raise _expired_on_arrival(token, now)
        except FetchFailure as failure:
            now = self._clock.now()
            failure = self.with_free_tries(self._log.log_failed(failure, now - began_s, now))
            self._history = self._history.after_failure(self._secret_hash, failure)
            raise failure from None
        if now < token.expires_s:
            self._log.log_fetched(token, now - began_s)
        return token

    def _on_end(self, fetch: asyncio.Task[Token]) -> None:
        error = asyncio.CancelledError() if fetch.cancelled() else fetch.exception()
        if fetch is not self._fetch:  # closed, or another process was faster
            return
        self._fetch = None
        if error is None:
            self._adopt(fetch.result())
        else:
            self._fail(error)

    def _adopt(self, token: Token) -> None:
        now = self._clock.now()
        self._jitter = self._wait_budget.random_fraction()
        self._refresh_at_s = refresh_at_s(token, again=is_reissued(token, self._token), now=now, jitter=self._jitter)
        self._not_before_s = token.requested_s + SPACING_S
        self._token, self._expires_at_s = token, token.expires_s
        self._failure_state = None
        self._history = self._history.after_token(self._secret_hash)
        self._rejections.set_current(token, now)
        self._waiters.wake()
        self._refresh_task.wake()

    def _fail(self, error: BaseException) -> None:
        now = self._clock.now()
        if isinstance(error, FetchFailure):
            failure, began_s = error, self._attempt_began_s
        else:
            failure = FetchFailure(f"the source broke ({type(error).__name__}): a bug", quick=False)
            failure, began_s = self._log.log_failed(failure, 0.0, now, bug=error), now
        self._failure_state = next_failure_state(
            self._failure_state, failure, began_s, now, self._wait_budget.random_fraction()
        )
        self._waiters.wake()
        self._refresh_task.wake()

    def _unavailable(self, now: float) -> TokenUnavailable:
        if self._closed:
            return TokenUnavailable(f"credential {self.name} is closed", credential=self.name)
        if self._failure_state is None:
            bound = f"{self._wait_budget.budget_s:g} s ({setting(self.name, 'timeout_s')} and a moment more)"
            reason, retry_s = f"no answer from {self._wait_budget.issuer_name} within {bound}", MIN_RETRY_AFTER_S
        else:
            reason, retry_s = self._failure_state.reason, max(MIN_RETRY_AFTER_S, self._failure_state.next_try_s - now)
            if self._failure_state.definite:
                reason = f"{reason.rstrip('.')}; tried again in {math.ceil(retry_s)} s{self._secret_hint}"
        message = f"no token for credential {self.name}: {reason}"
        return TokenUnavailable(message, credential=self.name, retry_after_s=retry_s)

    def _run_due(self) -> float:
        """Do what is due; return the seconds until the next look."""
        now = self._clock.now()
        if self._watches_secret() and self._log.mask_secrets(self._source.secrets()) != self._secret_hash:
            self._refresh_at_s = now
            self._failure_state = retry_now(self._failure_state, now) if self._failure_state is not None else None
        self._fetch_if_due(now)
        return min(SECRET_POLL_S if self._watches_secret() else math.inf, max(0.0, self._due_s() - now))

    def _watches_secret(self) -> bool:
        """Whether a change of the secret matters now: the issuer refused it, or the token came with the old one."""
        if self._fetch is not None:
            return False
        return self._token is not None if self._failure_state is None else self._failure_state.definite


def _expired_on_arrival(token: Token, now: float) -> FetchFailure:
    return FetchFailure(
        f"the token was dead on arrival: {max(0.0, token.end_s - token.requested_s):.1f} s to live, "
        f"and fetching it took {now - token.requested_s:.1f} s",
        quick=False,
        from_other_process=token.from_store,
    )


class RefreshTask:
    """The task that keeps a token ready, with traffic and without.

    Calls `tend` again and again: it does what is due, and returns the seconds until the next call. `broke` receives
    an exception that `tend` raised, by a bug in a source; `tend` is called again NAP_S later or after `rouse`.
    """

    def __init__(
        self, name: str, clock: Clock, tend: Callable[[], float], on_error: Callable[[BaseException], object]
    ) -> None:
        self._name = name
        self._clock = clock
        self._run_due = tend
        self._on_error = on_error
        self._wake = asyncio.Event()
        self._is_stopped = False

    def start(self, tasks: Tasks, pause_s: float = 0.0) -> None:
        """Begin after `pause_s`, in a task of `tasks`."""
        work = tasks.spawn(self._run(pause_s), f"keeper of {self._name}")
        work.add_done_callback(partial(self._on_end, tasks))

    def wake(self) -> None:
        """Call `tend` now: something has changed."""
        self._wake.set()

    def stop(self) -> None:
        """Do not begin again; the owner of the tasks ends what runs."""
        self._is_stopped = True

    def _on_end(self, tasks: Tasks, work: asyncio.Task[NoReturn]) -> None:
        if self._is_stopped or work.cancelled() or (error := work.exception()) is None:
            return
        self._on_error(error)
        self.start(tasks, MAX_SLEEP_S)

    async def _run(self, pause_s: float) -> NoReturn:
        if pause_s > 0:
            await self._sleep(pause_s)
        while True:
            await self._sleep(min(MAX_SLEEP_S, self._run_due()))

    async def _sleep(self, sleep_s: float) -> None:
        timer = self._clock.call_later(sleep_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()


class Waiters:
    """The requests that wait for the one fetch.

    Each has a future of its own: one that leaves does not affect another, and 2,000 that leave at once cost no storm
    of callbacks, as a shield around one shared future does (Soju06/codex-lb#1897).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, longest_s: float) -> None:
        """Return when `wake` is called, or after `longest_s`: check again in either case."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        timer = self._clock.call_later(longest_s, lambda: _wake(waiter))
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiting.discard(waiter)

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
