"""Keep one valid token per credential, and never return an expired one.

`TokenHolder` shares one fetch of its `TokenSource` between all requests, and fetches without traffic. `RenewalLimiter`
bounds the renewals that rejections by upstreams cause.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Protocol

import msgspec

from gatepass.cancel import Tasks, timeout
from gatepass.clock import Clock, sleep, wait_at_most
from gatepass.config.advice import Advice
from gatepass.documents import Renewal, TokenStatus
from gatepass.errors import TokenUnavailable
from gatepass.observability.observer import SentToken
from gatepass.observability.redaction import Redactor
from gatepass.tokens import lifetime
from gatepass.tokens.failure import (
    PROBE_S,
    FailureKind,
    FailureState,
    FetchFailure,
    TokenReissued,
    next_failure_state,
    quick_wait_s,
    retry_now,
    slow_advice,
)
from gatepass.tokens.lifetime import SPACING_S, Token
from gatepass.tokens.secrets import secret_retry_hint
from gatepass.tokens.token_log import TokenLog
from gatepass.types import Secret

RENEWALS = 10
"""Maximum renewals in WINDOW_S that rejections cause, for all users of one credential together."""
UNPROVEN_RENEWALS = 6
"""How many of RENEWALS may be for unproven users: users that have not accepted the token, or for which it was renewed
within WINDOW_S. The rest is left for a model that works, while others always reject or take turns."""
CALLER_RENEWALS = 8
"""How many of RENEWALS may follow rejections of one caller's requests, so that it leaves two to the others."""
WINDOW_S = 60.0
MAX_USERS = 1024
"""Cap on remembered users. A client may invent model names, and some upstreams answer any name."""
SECRET_POLL_S = 2.0
"""How often the refresh task reads the secret and the clock. Timers do not advance while a machine is suspended."""
WAIT_MARGIN_S = 0.25
"""Added to the fetch timeout, so that a fetch which reaches it ends with its own error."""
OUTAGE_WAIT_S = 1.0
"""How long a request waits for a fetch in progress while the issuer is failing."""
SLOW_ATTEMPT_S = 1.0
"""An attempt that failed later than this is not repeated within its fetch, because requests wait for the reason."""
MIN_RETRY_AFTER_S = 1.0
REISSUE_WAIT_S = 3.0
"""How long after its end an issuer may return a token again before that is a failure. The clocks may differ."""


class TokenUser(msgspec.Struct, frozen=True, gc=False):
    """The upstream and model that receive a token. One model may reject a token that another accepts.

    `base_url` distinguishes the servers that an upstream had before and after a reload.
    """

    upstream: str = ""
    model: str = ""
    base_url: str = ""


ANY_USER = TokenUser()


class WaitBudget(msgspec.Struct, frozen=True):
    """The longest wait of a request for a token, and the issuer's name in errors. `random_fraction` gives jitter.

    `advice` returns what to do about a failure.
    """

    budget_s: float
    issuer_name: str = "the issuer"
    random_fraction: Callable[[], float] = random.random
    advice: Callable[[FetchFailure], Advice] = lambda failure: failure.advice


class TokenSource(Protocol):
    """Fetches tokens and caches none."""

    async def fetch(self) -> Token:
        """Return a new token within the source's own time limit; raise FetchFailure."""

    def secrets(self) -> tuple[Secret, ...]:
        """Return the secrets of this source, so that they can be masked. A changed value justifies a new attempt."""


class TokenHolder:
    """Keeps a valid token, with one fetch at a time for all requests.

    `start` requires a running event loop. It begins the first fetch and returns. A background task then refreshes the
    token before its end and retries after failures, with and without traffic. `on_rejection` is called with each
    rejected token before its renewal, `on_retry` before the fetch of `retry`, and `on_close` when the holder closes.
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
        self.on_retry: Callable[[], object] = lambda: None
        self.on_close: Callable[[], object] = lambda: None
        self._rejections = RenewalLimiter()
        self._changed = asyncio.Event()
        self._token: Token | None = None
        self._expires_at_s = self._refresh_at_s = self._not_before_s = -math.inf
        self._attempt_began_s = -math.inf
        self._jitter = 0.0
        self._failure_state: FailureState | None = None
        self._fetch: asyncio.Task[Token] | None = None
        self._secret_hash = 0
        self.secret_hint = ""
        self._tasks = Tasks()
        self._is_started = False
        self._wake = asyncio.Event()
        self._closed = False

    def start(self) -> None:
        """Begin to fetch in the background, once. gatepass starts even if the issuer is down."""
        if not self._is_started:
            self._is_started = True
            self._tasks.keep(self._refresh, f"refresh of {self.name}", self._fail, lambda: self._sleep(SECRET_POLL_S))

    async def aclose(self) -> None:
        """End all tasks of this holder. Waiting requests get TokenUnavailable."""
        if not self._closed:
            self.on_close()
        self._closed = True
        self._fetch = None
        self._wake_requests()
        await self._tasks.aclose()

    def current(self) -> Token | None:
        """Return the valid token, or None. Never waits."""
        # An expired token is never sent (envoyproxy/envoy#44674 sent them while the issuer was down).
        return None if self._clock.now() >= self._expires_at_s else self._token

    def sent(self, token: Token, now_s: float) -> SentToken:
        """Return what observers learn of `token`, which a request got at `now_s`."""
        return SentToken(self.name, now_s, token.requested_s, token.lifetime_s)

    @property
    def usable(self) -> bool:
        """Whether a valid token is held that no user rejected, or that another user still accepts."""
        return self._clock.now() < self._expires_at_s and not self._rejections.is_refused

    async def token(self, instead_of: str | None = None) -> Token:
        """Return a valid token: the current one at once, otherwise the result of the shared fetch.

        After `reject(value)` returned True, pass the value as `instead_of`: only this request waits for the next
        token. A request waits for `budget_s` and WAIT_MARGIN_S at most; while the issuer is failing, for OUTAGE_WAIT_S.

        Raises:
            TokenUnavailable: with the issuer's reason.
            TokenReissued: the issuer returned `instead_of` again.
        """
        arrived_s = self._clock.now()
        while True:
            if (token := self.current()) is not None:
                if token.text != instead_of:
                    return token
                if not self._rejections.is_rejected(token):
                    raise TokenReissued("the issuer returned the rejected token again", credential=self.name)
            now = self._clock.now()
            self._fetch_if_due(now)
            longest_s = self._wait_budget.budget_s + WAIT_MARGIN_S
            until_s = arrived_s + (longest_s if self._failure_state is None else min(longest_s, OUTAGE_WAIT_S))
            # The issuer failed a moment ago, or the holder is closed. Otherwise a fetch runs, or a renewal is due soon.
            is_over = self._fetch is None and (self._failure_state is not None or self._closed)
            if is_over or now >= until_s:
                raise self._unavailable(now)
            with suppress(TimeoutError):
                await timeout(self._clock, until_s - now, self._changed.wait(), TimeoutError())

    def retry(self) -> bool:
        """Fetch now, without the pause after a failure, if the last fetch failed or an upstream rejects the token.

        Return whether either is the case. A fetch in progress continues alone.
        """
        now = self._clock.now()
        if self._closed or (self._failure_state is None and not self._rejections.rejected_s):
            return False
        if self._failure_state is not None:
            self._failure_state = retry_now(self._failure_state, now)
        self._refresh_at_s = now
        self.on_retry()
        self._fetch_if_due(now)
        return True

    def rejection_age_s(self, upstream: str, base_url: str) -> float | None:
        """Return the seconds since an upstream rejected a token, None if it has accepted one since."""
        rejected_s = self._rejections.rejected_s.get(TokenUser(upstream, base_url=base_url))
        return None if rejected_s is None else self._clock.now() - rejected_s

    def confirm(self, token: Token, by: TokenUser = ANY_USER, sent_s: float = math.inf) -> bool:
        """Record that `by` accepted `token` in a request sent at `sent_s`. Return False if that proves nothing.

        A request that was sent before a rejection may have arrived before the token ended.
        """
        return token is self._token and self._rejections.accept(by, sent_s)

    def reject(self, value: str, by: TokenUser = ANY_USER, caller: str = "", *, is_page: bool = False) -> bool:
        """Renew the token `value`, which `by` rejected. Other requests use it until the next token arrives.

        True: call `token(instead_of=value)` for another token. False: pass on the upstream's own answer, because no
        other token will come (RenewalLimiter). `is_page`: it answered with a web page, which may concern the request
        alone.
        """
        token, now = self._token, self._clock.now()
        # By value: ten late 401s must not renew the token that has replaced theirs (azure-sdk-for-cpp#6151).
        if token is None or token.text != value:
            return True  # already replaced
        is_first = not self._rejections.is_rejected(token)
        if self._closed or not self._rejections.reject(by, caller, now, is_page=is_page):
            return False
        if is_first:
            self.on_rejection(value)
            self._refresh_at_s = now
            self._not_before_s = -math.inf  # without SPACING_S: a client waits
            self._fetch_if_due(now)
        return True

    def denial_reason(self) -> str:
        """Return why `reject` has just returned False, as the end of a sentence."""
        return REISSUED if self._rejections.is_reissued(self._clock.now()) else LIMITED

    def rejected_again(
        self, token: Token, by: TokenUser = ANY_USER, caller: str = "", *, is_page: bool = False
    ) -> None:
        """Record that `by` rejected the renewed `token` too, in a request of `caller`."""
        is_over = token is not self._token  # a late answer: the next token may be accepted
        self._rejections.rejected_again(by, caller, self._clock.now(), is_page=is_page or is_over)

    def adopt_shared(self, token: Token) -> bool:
        """Take `token`, which another process fetched, if it is valid and newer; return whether it was taken."""
        held = self._token
        is_newer = held is None or (token.text != held.text and token.requested_s > held.requested_s)
        if not is_newer or self._closed or self._clock.now() >= token.expires_s:
            return False
        self._log.log_shared(token)
        if self._fetch is not None:  # the shared token makes it superfluous
            self._fetch.cancel()
            self._fetch = None
        self._adopt(token)
        return True

    def masked(self, failure: FetchFailure) -> FetchFailure:
        return failure.masked(self._log.redactor.mask)

    @property
    def needs_secret(self) -> bool:
        """Whether another secret may end the last failure."""
        return (failure := self._log.last_failure) is not None and failure.needs_secret

    @property
    def last_failure(self) -> FetchFailure | None:
        return self._log.last_failure

    def status(self) -> TokenStatus:
        now, due_s, error_s = self._clock.now(), self._due_s(), self._log.last_error_s
        started, since_s = self._clock.wall() - now, self._log.failing_since_s
        token = None if self._rejections.is_refused else self._token
        left_s = None if token is None or token.lifetime_s is None else max(0.0, token.expires_s - now)
        return TokenStatus(
            state="none" if token is None else lifetime.freshness(token, now, self._jitter),
            kind=None if token is None else token.kind,
            lifetime_source=None if token is None else token.lifetime_source,
            age_s=None if token is None else round(now - token.requested_s, 3),
            expires_in_s=None if left_s is None else round(left_s, 3),
            fetches=self._log.fetches,
            failures=self._log.failures,
            last_error=None if (failure := self._log.last_failure) is None else failure.reason,
            last_error_age_s=None if error_s is None else round(now - error_s, 3),
            failing=self._failure_state is not None,
            failing_since=None if since_s is None else round(started + since_s),
            refreshing=self._fetch is not None,
            next_try_in_s=round(max(0.0, due_s - now), 3) if math.isfinite(due_s) else None,
            renewals=[Renewal(round(started + ended_s, 3), why is None, why) for ended_s, why in self._log.renewals],
        )

    def _due_s(self) -> float:
        """Return when the next fetch starts; infinity while one runs."""
        if self._fetch is not None:
            return math.inf
        if self._failure_state is not None:
            return self._failure_state.next_try_s
        return min(self._refresh_at_s, self._expires_at_s)

    def _fetch_if_due(self, now: float) -> None:
        if self._closed or now < self._due_s():
            return
        # A separate task: the client that waits for it may disconnect, and others need the token.
        self._fetch = self._tasks.spawn(self._fetch_token(quick=self._failure_state is None), f"fetch of {self.name}")
        self._fetch.add_done_callback(self._on_end)

    async def _fetch_token(self, *, quick: bool) -> Token:
        """Return a valid token after one attempt. If `quick` and the failure is transient, make up to three more. Each
        change of the secret during an attempt that failed causes one more.

        Near its end an issuer may return the last token until it has expired. Then the fetch waits for the next one.

        Raises:
            FetchFailure: of the last attempt, masked.
        """
        # A new task may begin before SPACING_S has passed, so the fetch itself waits for the rest.
        if (early_s := self._not_before_s - self._clock.now()) > 0:
            await sleep(self._clock, early_s)
        began_s, tries = self._clock.now(), 0
        while True:
            tries += 1
            try:
                token = await self._attempt()
            except FetchFailure as failure:
                if self._has_new_secret():  # it was rotated meanwhile: no request learns of the refusal of the old one
                    continue
                now = self._clock.now()
                wait_s = None
                if quick and now - self._attempt_began_s <= SLOW_ATTEMPT_S:
                    wait_s = quick_wait_s(tries, failure, self._wait_budget.random_fraction())
                if wait_s is None or now + wait_s >= began_s + self._wait_budget.budget_s:
                    raise
            else:
                now = self._clock.now()
                if now < token.expires_s:
                    return token
                wait_s = max(SPACING_S, token.end_s - now)
                # The issuer returned the last token again, and that one has just ended.
                if now + wait_s >= min(began_s + self._wait_budget.budget_s, token.end_s + REISSUE_WAIT_S):
                    raise self._log.log_failed(_expired_on_arrival(token, now), now - token.requested_s, now)
            await sleep(self._clock, wait_s)

    async def _attempt(self) -> Token:
        self._attempt_began_s = began_s = self._clock.now()
        secrets = self._source.secrets()  # masked first, because an issuer's error may quote them
        self._secret_hash, self.secret_hint = self._log.mask_secrets(secrets), secret_retry_hint(secrets)
        try:
            token = lifetime.without_extension(await self._source.fetch(), self._token)
            now = self._clock.now()
            if now >= token.expires_s and not lifetime.is_reissued(token, self._token):
                raise _expired_on_arrival(token, now)
        except FetchFailure as failure:
            now = self._clock.now()
            raise self._log.log_failed(failure, now - began_s, now) from None
        if now < token.expires_s:  # a reissued token near its end is not a success
            self._log.log_fetched(token, now - began_s)
        return token

    def _on_end(self, fetch: asyncio.Task[Token]) -> None:
        # Reading the exception also marks it as retrieved, before the early return.
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
        # Drawn once for each token, so that its refresh does not move at each look.
        self._jitter = self._wait_budget.random_fraction()
        self._refresh_at_s = lifetime.refresh_at_s(
            token, again=lifetime.is_reissued(token, self._token), now=now, jitter=self._jitter
        )
        self._not_before_s = token.requested_s + SPACING_S
        self._token, self._expires_at_s = token, token.expires_s
        self._failure_state = None
        self._rejections.set_current(token, now)
        self._wake_requests()
        self._wake.set()

    def _fail(self, error: BaseException) -> None:
        now = self._clock.now()
        if isinstance(error, FetchFailure):
            # The pause begins with the attempt, so that an attempt which hung causes no further pause.
            # A copy is kept: the traceback of the error holds the issuer's reply.
            failure, began_s = error.masked(), self._attempt_began_s
        else:
            failure = FetchFailure("a bug in gatepass: the log has its trace")
            failure, began_s = self._log.log_failed(failure, 0.0, now, bug=error), now
        jitter = self._wait_budget.random_fraction()
        self._failure_state = next_failure_state(self._failure_state, failure, began_s, now, jitter)
        self._wake_requests()
        self._wake.set()

    def _wake_requests(self) -> None:
        # A woken request may wait again at once, for the new event.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _unavailable(self, now: float) -> TokenUnavailable:
        if self._closed:
            return TokenUnavailable(f"credential {self.name} is closed", credential=self.name)
        if self._failure_state is None:
            budget = self._wait_budget
            bound = f"{budget.budget_s:g} s (credentials.{self.name}.timeout_s and a moment more)"
            why, advice = f"no answer from {budget.issuer_name} within {bound}", slow_advice(self.name, budget.budget_s)
            retry_s = MIN_RETRY_AFTER_S
        else:
            failure, retry_s = self._failure_state.failure, max(MIN_RETRY_AFTER_S, self._failure_state.next_try_s - now)
            why, advice = f"{failure.why.rstrip('.')}; next attempt in {math.ceil(retry_s)} s", failure.advice
            if failure.kind is not FailureKind.OUTAGE:
                why += self.secret_hint * failure.needs_secret
                advice = self._wait_budget.advice(failure)
        error = TokenUnavailable(
            f"no token for credential {self.name}: {why}",
            credential=self.name,
            advice=str(advice),
            retry_after_s=retry_s,
            case=advice.case,
            names=advice.names,
        )
        if self._failure_state is not None:
            error.detail = self._failure_state.failure.detail
            if self._failure_state.refusals and self._failure_state.failure.is_refused:
                error.should_retry = False  # the issuer refuses the credential until an operator repairs it
        return error

    async def _refresh(self) -> NoReturn:
        """Start each fetch when it is due, with and without traffic."""
        while True:
            now = self._clock.now()
            has_fetched = self._fetch is None and (self._token is not None or self._failure_state is not None)
            if has_fetched and self._has_new_secret():
                self._refresh_at_s = now  # a new secret takes effect before the old token ends
                self._failure_state = retry_now(self._failure_state, now) if self._failure_state is not None else None
            self._fetch_if_due(now)
            await self._sleep(min(SECRET_POLL_S, max(0.0, self._due_s() - now)))

    def _has_new_secret(self) -> bool:
        """Read the secret, and return whether it is another one than at the last attempt."""
        return self._log.mask_secrets(self._source.secrets()) != self._secret_hash

    async def _sleep(self, sleep_s: float) -> None:
        # One event for the timer and for `_wake.set`, so that neither is missed.
        await wait_at_most(self._wake, sleep_s, self._clock)
        self._wake.clear()


def _expired_on_arrival(token: Token, now: float) -> FetchFailure:
    return FetchFailure(
        f"the token had expired on arrival: {max(0.0, token.end_s - token.requested_s):.1f} s of lifetime, "
        f"and fetching it took {now - token.requested_s:.1f} s",
        retry_after_s=PROBE_S,  # a quick attempt would bring another one
        from_other_process=token.from_store,
    )


REISSUED = "its issuer returned the same token again"
LIMITED = f"it was not renewed, because renewals within the last {WINDOW_S:.0f} s did not help"


class RenewalLimiter:
    """Decides which rejections renew the token.

    - A token is renewed once for all requests that use it. If the issuer returns it again, it is not renewed for
      WINDOW_S.
    - At most RENEWALS happen in WINDOW_S, and at most CALLER_RENEWALS for one caller. An upstream rejects every request
      with a wrong credential, and not every rejection may cause a login.
    - Web pages may cause one more renewal in WINDOW_S. A filter may answer a single prompt with a web page.
    - If a model rejects two renewed tokens and accepts none in between, its rejections renew no token for the same
      caller for WINDOW_S. The caller's requests are still sent, because it may be a server with many users. One proves
      nothing: a new token may arrive at the upstream a moment late.

    A rejection is over when the upstream accepts a request that was sent later.
    """

    def __init__(self) -> None:
        self._renewals: deque[float] = deque(maxlen=RENEWALS)
        self._causes: deque[TokenUser] = deque(maxlen=RENEWALS)
        """The user that rejected the token before each of `_renewals`."""
        self._unproven: deque[float] = deque(maxlen=UNPROVEN_RENEWALS)
        self._of_callers: dict[str, deque[float]] = {}
        self._page_s = self._reissued_s = -math.inf
        self._in_vain_s: dict[tuple[str, TokenUser], float] = {}
        """When each model rejected a second renewed token in a row, for each caller."""
        self._doubted: dict[TokenUser, int] = {}
        """The number of the renewed token that each model rejected first, since it has accepted one."""
        self._number = 0
        """Of the current token."""
        self._token: Token | None = None
        self._rejected: Token | None = None
        """The last token that is renewed because of a rejection, and whether that was a page."""
        self._is_page = False
        self._rejected_by: set[TokenUser] = set()
        self.accepted_by: set[TokenUser] = set()
        """The users of the current token."""
        self.rejected_s: dict[TokenUser, float] = {}
        """When each upstream, as a user without a model, rejected a token, if it has accepted none since."""

    @property
    def is_refused(self) -> bool:
        """Whether a user rejected the current token, and every user that accepted it rejected it too."""
        return bool(self._rejected_by) and self.accepted_by <= self._rejected_by

    def is_rejected(self, token: Token) -> bool:
        """Return whether this token object was rejected. A later token with the same text was not."""
        return token is self._rejected

    def is_reissued(self, now: float) -> bool:
        """Return whether the issuer returned the current token again, less than WINDOW_S after its rejection."""
        return now < self._reissued_s + WINDOW_S

    def set_current(self, token: Token, now: float) -> None:
        is_reissued = self._rejected is not None and token.text == self._rejected.text and not self._is_page
        self._reissued_s = now if is_reissued else -math.inf
        self._token, self.accepted_by, self._rejected_by = token, set(), set()
        self._number += 1

    def accept(self, by: TokenUser, sent_s: float) -> bool:
        """Record that `by` accepted the current token in a request sent at `sent_s`, unless a rejection is later."""
        if self.rejected_s:  # empty in nearly every request
            if sent_s < self.rejected_s.get(_upstream_of(by), -math.inf):
                return False
            self.rejected_s.pop(_upstream_of(by), None)
        self._rejected_by.discard(by)
        self._doubted.pop(by, None)
        if len(self.accepted_by) < MAX_USERS:
            self.accepted_by.add(by)
        return True

    def reject(self, by: TokenUser, caller: str, now: float, *, is_page: bool = False) -> bool:
        """Record that `by` rejected the current token; return whether the request gets another one."""
        self._note_rejection(by, now)
        if self.is_reissued(now) or now < self._in_vain_s.get((caller, by), -math.inf) + WINDOW_S:
            return False
        if self._token is not self._rejected:  # later rejections wait for the same renewal
            if is_page:
                if now < self._page_s + WINDOW_S:
                    return False
                self._page_s = now
            else:
                renewals = [self._renewals]
                causes = zip(self._renewals, self._causes, strict=True)
                if by not in self.accepted_by or any(one == by and now < at_s + WINDOW_S for at_s, one in causes):
                    renewals.append(self._unproven)
                if caller:
                    recent = self._of_callers.items()  # no more than `_renewals` has, but for this caller
                    self._of_callers = {one: at for one, at in recent if at and now < at[-1] + WINDOW_S}
                    renewals.append(self._of_callers.setdefault(caller, deque(maxlen=CALLER_RENEWALS)))
                if any(len(one) == one.maxlen and now < one[0] + WINDOW_S for one in renewals):
                    return False
                for one in renewals:
                    one.append(now)
                self._causes.append(by)
            self._rejected, self._is_page = self._token, is_page
        if len(self._rejected_by) < MAX_USERS:
            self._rejected_by.add(by)
        return True

    def rejected_again(self, by: TokenUser, caller: str, now: float, *, is_page: bool = False) -> None:
        self._note_rejection(by, now)
        if is_page:
            return
        if self._doubted.setdefault(by, self._number) == self._number:
            if len(self._doubted) > MAX_USERS:
                self._doubted.clear()
            return
        if len(self._in_vain_s) >= MAX_USERS:
            self._in_vain_s = {key: at_s for key, at_s in self._in_vain_s.items() if now < at_s + WINDOW_S}
        if len(self._in_vain_s) < MAX_USERS:
            self._in_vain_s[caller, by] = now

    def _note_rejection(self, by: TokenUser, now: float) -> None:
        """Record the rejection for the upstream, unless another model of it accepts the current token."""
        upstream, others = _upstream_of(by), self.accepted_by - self._rejected_by - {by}
        if len(self.rejected_s) < MAX_USERS and all(_upstream_of(other) != upstream for other in others):
            self.rejected_s[upstream] = now


def _upstream_of(user: TokenUser) -> TokenUser:
    return TokenUser(user.upstream, base_url=user.base_url)
