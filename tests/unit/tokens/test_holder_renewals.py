"""Which rejections by upstreams renew a token, and how often."""

import asyncio
import random
from itertools import pairwise

import pytest

from gatepass.clock import sleep
from gatepass.tokens.holder import (
    MAX_RENEWAL_WAIT_S,
    MAX_USERS,
    RENEWALS,
    UNPROVEN_RENEWALS,
    WINDOW_S,
    RenewalLimiter,
    TokenUser,
)
from gatepass.tokens.lifetime import Token
from gatepass.types import Secret
from tests.memory import traced_memory
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.fleet import Upstream
from tests.unit.tokens.scripted import Mint, RunningHolder, ScriptedIssuer, kept, outcomes, refused

CHAT, EMBED, FORBIDDEN = TokenUser("chat", "m"), TokenUser("embed", "e"), TokenUser("chat", "forbidden")


class Renewing(RenewalLimiter):
    """Rejections of an issuer that has a new token at once."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.renew(0.0)

    def renew(self, now: float, text: str | None = None) -> None:
        self.count += 1
        self.set_current(token(text or f"token-{self.count}"), now)

    def refused(self, by: TokenUser, now: float) -> bool:
        """Record that `by` rejected the current token, and renew it if that is allowed."""
        is_granted = self.reject(by, now)
        if is_granted:
            self.renew(now)
        return is_granted


def token(text: str = "abc") -> Token:
    return Token(Secret(text), 0.0, 300.0)


def renewed_at(rejections: Renewing, now: float) -> float | None:
    """Let the current token work, and end at `now`. Return when it is renewed, None if it is not."""
    rejections.accept(CHAT)
    if not rejections.reject(CHAT, now):
        return None
    rejections.renew(rejections.renew_at_s)
    return rejections.renew_at_s


def test_a_token_that_worked_for_nobody_is_renewed_without_a_wait_as_often_as_before():
    rejections = Renewing()
    assert renewed_at(rejections, 0.0) == 0.0
    assert [rejections.reject(EMBED, 0.1), rejections.renew_at_s] == [True, 0.1]
    rejections.renew(0.1)
    assert renewed_at(rejections, 2.05) == 2.05, "nor does it delay one that worked"


def test_a_renewal_that_begins_too_late_for_a_request_is_left_to_others():
    rejections = Renewing()
    assert renewed_at(rejections, 10.0) == 10.0
    assert not rejections.reject(CHAT, 10.0, 0.5)
    assert rejections.reject(CHAT, 10.0)
    assert not rejections.reject(CHAT, 10.4, 0.5)
    assert rejections.reject(CHAT, 10.5, 0.5)


def test_a_request_that_has_waited_takes_the_first_moment_a_second_after_the_last_renewal():
    """Its second renewal was nearly always refused: it aimed at a spacing of two seconds."""
    rejections = Renewing()
    assert renewed_at(rejections, 10.0) == 10.0
    rejections.accept(CHAT)
    assert rejections.reject(CHAT, 11.0, 0.2)
    assert rejections.renew_at_s == 11.2


def test_tokens_end_early_after_two_that_worked_until_one_works_no_more():
    rejections, seen = Renewing(), []
    for now in (10.0, 20.0):
        renewed_at(rejections, now)
        seen.append(rejections.end_early(CHAT, now))
    seen += [rejections.end_early(EMBED, 20.0), rejections.end_early(CHAT, 20.0 + WINDOW_S)]
    rejections.renew(21.0)
    seen.append(rejections.end_early(CHAT, 21.0))
    assert seen == [False, True, False, False, False]


def test_model_that_always_rejects_uses_no_renewal_of_a_served_model():
    rejections = Renewing()
    for number in range(20):
        rejections.refused(TokenUser("chat", f"made-up-{number}"), float(number))
    rejections.accept(CHAT)
    assert rejections.refused(CHAT, 20.0)


def test_a_user_that_alternately_accepts_and_rejects_is_bounded_like_one_that_never_accepts():
    """A 403 that is configured as a rejection, and an operation that this credential may not use."""
    rejections, granted = Renewing(), []
    for number in range(10):
        rejections.accept(CHAT)
        granted.append(rejections.refused(CHAT, float(number)))
        rejections.rejected_again(CHAT, float(number))
    assert granted == [True] * 7 + [False] * 3


def test_made_up_models_take_no_memory():
    rejections = Renewing()

    def refuse(users: range) -> None:
        for number in users:
            user = TokenUser("chat", f"made-up-{number}")
            rejections.accept(user)
            rejections.reject(user, 0.0)
            rejections.rejected_again(user, 0.0)

    refuse(range(MAX_USERS))
    with traced_memory() as memory:
        refuse(range(MAX_USERS, 3 * MAX_USERS))
    assert memory.kept_bytes < 60 * MAX_USERS
    rejections.rejected_again(CHAT, 60.0)
    assert "rejected a new token" in rejections.denial_reason(CHAT, 60.0)


def test_a_token_is_refused_until_a_user_that_does_not_refuse_it_accepts_it():
    rejections, seen = Renewing(), []
    for event in (
        lambda: rejections.reject(EMBED, 0.0),
        lambda: rejections.accept(CHAT),
        lambda: rejections.reject(CHAT, 0.0),
        lambda: rejections.accept(CHAT),
        lambda: rejections.reject(CHAT, 0.0),
        lambda: rejections.renew(1.0),
    ):
        event()
        seen.append(rejections.is_refused)
    assert seen == [True, False, True, False, True, False]


def test_tokens_that_never_worked_are_renewed_six_times_a_minute_for_all_users_together():
    rejections = Renewing()
    users = [TokenUser("chat", f"made-up-{number}") for number in range(5)] + [EMBED, CHAT, FORBIDDEN]
    assert [rejections.refused(user, float(now)) for now, user in enumerate(users)] == [True] * 6 + [False] * 2
    granted = [rejections.refused(CHAT, now) for now in (59.9, 60.0, 60.5, 61.0)]
    assert granted == [False, True, False, True]


@pytest.mark.parametrize(
    ("ends", "renewed"),
    [
        ((10.0, 10.2, 11.25, 16.0), [10.0, 11.2, 12.25, 16.0]),
        ((10.0, 11.5, 14.25, 16.25), [10.0, 12.0, 14.25, 16.25]),
    ],
)
def test_renewals_are_two_seconds_apart_as_far_as_a_request_may_wait(ends, renewed):
    rejections = Renewing()
    assert [renewed_at(rejections, now) for now in ends] == renewed


def test_tokens_that_worked_are_renewed_once_a_second_and_forty_a_minute():
    for seed in range(5):
        chance, rejections, now = random.Random(seed), Renewing(), 0.0
        renewed: list[float] = []
        for _ in range(400):
            now = max(now, rejections.renew_at_s) + chance.choice((0.0, 0.01, 0.5, 1.0, 3.0)) * chance.random()
            at_s = renewed_at(rejections, now)
            if at_s is not None:
                assert now <= at_s <= now + MAX_RENEWAL_WAIT_S
                renewed.append(at_s)
        assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in pairwise(renewed)), seed
        assert all(later - earlier >= WINDOW_S for earlier, later in zip(renewed, renewed[RENEWALS:], strict=False))


def test_a_user_that_refused_the_renewed_token_too_renews_nothing_for_a_minute():
    rejections = Renewing()
    assert rejections.refused(FORBIDDEN, 0.0)
    rejections.rejected_again(FORBIDDEN, 0.5)
    assert not any(rejections.refused(FORBIDDEN, now / 10) for now in range(5, 605))
    assert rejections.reject(CHAT, 30.0)
    assert not rejections.reject(FORBIDDEN, 30.0), "it does not wait for the renewal of others"
    rejections.renew(30.0)
    assert rejections.refused(FORBIDDEN, 60.5)


@pytest.mark.parametrize("text", ["token-1", "new"])
def test_only_a_reissued_token_is_not_renewed_for_10_seconds(text):
    rejections = Renewing()
    assert rejections.reject(CHAT, 100.0)
    rejections.renew(100.0, text)
    granted = [rejections.reject(CHAT, now) for now in (100.0, 109.9, 110.0)]
    assert granted == ([False, False, True] if text == "token-1" else [True] * 3)


def test_a_page_renews_once_a_minute_and_takes_no_renewal_of_a_401():
    rejections = Renewing()
    rejections.accept(CHAT)
    assert rejections.reject(CHAT, 0.0, is_page=True)
    rejections.renew(0.0)
    pages = [rejections.reject(by, now, is_page=True) for now in (0.1, 30.0, 59.9) for by in (CHAT, EMBED)]
    assert not any(pages)
    rejections.accept(CHAT)
    assert rejections.reject(CHAT, 59.9), "a 401 renews at once"
    rejections.renew(59.9)
    assert rejections.reject(CHAT, 60.0, is_page=True)
    assert rejections.reject(EMBED, 60.0), "a rejection of the same token waits for the same renewal"
    rejections.renew(60.0)
    assert [rejections.refused(EMBED, 61.0 + now) for now in range(8)] == [True] * 6 + [False] * 2


def test_a_token_that_is_issued_again_after_a_page_may_still_be_rejected():
    rejections = Renewing()
    assert rejections.reject(CHAT, 0.0, is_page=True)
    rejections.renew(0.0, "token-1")
    assert rejections.reject(CHAT, 1.0)
    rejections.renew(1.0, "token-1")
    assert not rejections.reject(CHAT, 2.0), "its issuer has no other one"


# --- one credential of several upstreams and models ------------------------------------------------------------------


async def taken(it: RunningHolder, by: TokenUser) -> str:
    text = (await it.holder.token()).text
    it.holder.confirm(await it.holder.token(), by)
    return text


async def refusing(it: RunningHolder, by: TokenUser) -> bool:
    """One request of a model that is always refused; whether it waited for another token."""
    text = (await it.holder.token()).text
    if not it.holder.reject(text, by):
        return False
    await it.holder.token(text)
    it.holder.rejected_again(by)
    return True


async def test_a_forbidden_model_costs_one_fetch_a_minute_and_delays_no_other_model():
    async with kept(Mint(), otherwise=Mint(delay_s=0.2)) as it:
        await settle()
        waited: list[asyncio.Task[bool]] = []
        for _ in range(118):
            waited.append(asyncio.create_task(refusing(it, FORBIDDEN)))
            await settle()
            (request,) = await it.asked(1)
            assert request.done(), "a request of another model waited"
            it.holder.confirm(request.result(), CHAT)
            await it.clock.advance(0.5)
        assert it.issuer.calls == 2
        assert [task.result() for task in waited] == [True] + [False] * 117
        await it.clock.advance(2.0)
        again = asyncio.create_task(refusing(it, FORBIDDEN))
        await it.clock.advance(1.0)
        assert again.result()
        assert it.issuer.calls == 3


async def test_a_confirmation_applies_to_its_own_token_only():
    async with kept() as it:
        first = await it.holder.token()
        it.holder.confirm(first)
        assert it.holder.reject(first.text)
        results = []
        for _ in range(8):
            await it.clock.advance(1.0)  # the first of these follows one of a token that had worked
            token = await it.holder.token()
            it.holder.confirm(first)
            results.append(it.holder.reject(token.text))
        assert results == [True] * 6 + [False] * 2


async def test_a_token_that_ends_twice_within_a_second_is_renewed_once_for_all_requests():
    async with kept(otherwise=Mint(delay_s=0.1)) as it:
        await it.clock.advance(0.1)
        assert it.holder.reject(await taken(it, CHAT), CHAT)
        await it.clock.advance(0.2)
        second = await taken(it, CHAT)
        tasks = []
        for _ in range(10):
            assert it.holder.reject(second, CHAT)
            tasks += await it.asked(20, instead_of=second)
            await it.clock.advance(0.09)
        assert (it.issuer.calls, any(task.done() for task in tasks)) == (2, False)
        await it.clock.advance(0.2)
        assert await outcomes(tasks) == ["token-3"] * 200
        assert it.issuer.calls == 3


async def test_a_token_that_all_its_users_refused_is_not_usable_and_not_shown():
    async with kept(Mint(), refused()) as it:
        first = await taken(it, CHAT)
        assert it.holder.reject(first, CHAT)
        await settle()
        status = it.holder.status()
        assert (it.holder.usable, status.state, status.expires_in_s) == (False, "none", None)
        assert await outcomes(await it.asked(1, instead_of=first)) == ["TokenUnavailable"]
        await it.clock.advance(31.0)
        assert (it.holder.usable, it.holder.status().state) == (True, "fresh")


async def test_a_rejection_by_one_upstream_is_known_until_it_accepts_a_token():
    """Another upstream, and another model of the same one, may accept the token meanwhile."""
    async with kept(Mint(), otherwise=refused()) as it:
        text = await taken(it, EMBED)
        assert it.holder.reject(text, CHAT)
        await it.clock.advance(3.0)
        assert it.holder.usable
        assert (it.holder.rejection_age_s("chat", ""), it.holder.rejection_age_s("embed", "")) == (3.0, None)
        await taken(it, CHAT)
        assert it.holder.rejection_age_s("chat", "") is None
        it.holder.reject(text, FORBIDDEN)
        assert it.holder.rejection_age_s("chat", "") is None, "only one model of it"


# --- why a rejected token was not renewed, in the words that the error of the client ends with ----------------------

AGAIN = "its issuer returned the same token again"
IN_VAIN = (
    "it was not renewed, because this upstream and model rejected a new token less than 60 s ago. After a repair,"
    " `gatepass token --retry` renews it at once"
)
RATE = (
    "it was not renewed, because it was renewed 40 times within 60 s. Processes that end each other's tokens need a"
    " common `store`"
)
RATE_OF_UNPROVEN = (
    "it was not renewed, because it was renewed 6 times within 60 s after rejections by models that had not accepted"
    " the token before"
)


async def reason(it: RunningHolder, by: TokenUser) -> str | None:
    """Why the rejection of the held token by `by` renews nothing; None where it renews."""
    await settle()
    token = await it.holder.token()
    return None if it.holder.reject(token.text, by) else it.holder.denial_reason(by)


async def test_a_token_that_was_returned_again_or_refused_twice_is_named_as_the_reason():
    async with kept(Mint(text="same"), Mint(text="same")) as it:
        assert await reason(it, CHAT) is None
        await it.clock.advance(1.0)
        assert await reason(it, CHAT) == AGAIN
    async with kept() as it:
        assert await reason(it, FORBIDDEN) is None
        await settle()
        it.holder.rejected_again(FORBIDDEN)
        assert await reason(it, FORBIDDEN) == IN_VAIN
        assert await reason(it, CHAT) is None
        await it.clock.advance(WINDOW_S)
        assert await reason(it, FORBIDDEN) is None


@pytest.mark.parametrize(
    ("has_worked", "is_known", "renewals", "text"),
    [
        (False, False, UNPROVEN_RENEWALS, RATE_OF_UNPROVEN),
        (True, True, UNPROVEN_RENEWALS, RATE_OF_UNPROVEN),
        (True, False, RENEWALS, RATE),
    ],
)
async def test_a_rate_of_renewals_that_is_used_up_is_named_as_the_reason(has_worked, is_known, renewals, text):
    async with kept() as it:
        if is_known:
            it.holder.rejected_again(CHAT)
        for number in range(renewals + 1):
            await it.clock.advance(1.0)
            if has_worked:
                await taken(it, CHAT)
            assert await reason(it, CHAT) == (text if number == renewals else None)


TESTED_S = 180.0
LONGEST_FETCH_S = 0.3


class Process:
    """A gatepass process, its own way to the common issuer, and its clients."""

    def __init__(self, clock: DrivenClock, chance: random.Random, minted: list[str], rate: float) -> None:
        replies = (Mint(3600, delay_s=chance.uniform(0.0, LONGEST_FETCH_S)) for _ in range(1000))
        self.issuer = ScriptedIssuer(clock, *replies)
        self.issuer.minted = minted
        self.running = RunningHolder(clock, self.issuer)
        self.upstream = Upstream(self.issuer)
        self.waits_s: list[float] = []
        self._clock, self._chance, self._rate = clock, chance, rate

    async def _ask(self) -> None:
        began_s = self._clock.now()
        await self.upstream.serve(self.running)
        self.waits_s.append(self._clock.now() - began_s)

    async def ask_until(self, end_s: float) -> None:
        async with asyncio.TaskGroup() as asking:
            while self._clock.now() < end_s:
                asking.create_task(self._ask())
                await sleep(self._clock, self._chance.uniform(0.5, 1.5) / self._rate)


@pytest.mark.parametrize(("rate", "seed"), [(1.0, 0), (5.0, 1), (20.0, 2)])
async def test_two_processes_that_end_each_others_token_fail_no_request(rate, seed):
    clock, chance, minted = DrivenClock(), random.Random(seed), list[str]()
    processes = [Process(clock, chance, minted, rate) for _ in range(2)]
    one, two = (process.running for process in processes)
    end_s, asking = clock.now() + TESTED_S, []
    async with one:
        await clock.advance(LONGEST_FETCH_S)
        asking.append(asyncio.create_task(processes[0].ask_until(end_s)))
        await clock.advance(chance.uniform(0.0, 2.0))
        async with two:
            await clock.advance(LONGEST_FETCH_S)
            asking.append(asyncio.create_task(processes[1].ask_until(end_s)))
            await clock.advance(TESTED_S + 5.0)  # the last requests wait too
            await asyncio.gather(*asking)
    for process in processes:
        _, *renewed_s = process.issuer.started_s
        assert process.upstream.lost == 0
        assert max(process.waits_s) < MAX_RENEWAL_WAIT_S + LONGEST_FETCH_S + 1e-6
        assert all(later - earlier > 1.0 - 1e-6 for earlier, later in pairwise(renewed_s))
        windows = zip(renewed_s, renewed_s[RENEWALS:], strict=False)
        assert all(later - earlier > WINDOW_S - 1e-6 for earlier, later in windows)
