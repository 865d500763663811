"""Which rejections by upstreams renew a token, and how often."""

import math

import pytest

from gatepass.tokens.holder import (
    CALLER_RENEWALS,
    LIMITED,
    MAX_USERS,
    REISSUED,
    RENEWALS,
    UNPROVEN_RENEWALS,
    WINDOW_S,
    RenewalLimiter,
    TokenUser,
)
from gatepass.tokens.lifetime import Token
from gatepass.types import Secret
from tests.memory import traced_memory
from tests.unit.clock import settle
from tests.unit.tokens.scripted import Mint, RunningHolder, kept, outcomes, refused

CHAT, EMBED, FORBIDDEN = TokenUser("chat", "m"), TokenUser("embed", "e"), TokenUser("chat", "forbidden")


NO_NAMES = [TokenUser("chat", f"made-up-{number}") for number in range(3 * MAX_USERS)]
RAGFLOW, AGENT = "ragflow", "agent"


class Renewing(RenewalLimiter):
    """Rejections of an issuer that has a new token at once."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.renew(0.0)

    def renew(self, now: float, text: str | None = None) -> None:
        self.count += 1
        self.set_current(Token(Secret(text or f"token-{self.count}"), 0.0, 300.0), now)

    def refused(self, by: TokenUser, now: float, caller: str = RAGFLOW, *, is_page: bool = False) -> bool:
        """Record that `by` rejected the current token, and renew it if that is allowed."""
        is_granted = self.reject(by, caller, now, is_page=is_page)
        if is_granted:
            self.renew(now)
        return is_granted


def test_ten_renewals_a_minute_for_a_credential_whoever_it_is_for():
    rejections, granted = Renewing(), []
    for number in range(RENEWALS + 2):
        user = TokenUser(f"up-{number}", "m")
        rejections.accept(user, math.inf)
        granted.append(rejections.refused(user, float(number), str(number)))
    assert granted == [True] * RENEWALS + [False] * 2
    assert [rejections.refused(CHAT, now) for now in (59.9, 60.0, 60.5, 61.0)] == [False, True, False, True]


def test_models_that_always_reject_use_no_renewal_of_a_served_model():
    """Whoever asks for them, and however many there are."""
    rejections = Renewing()
    granted = [rejections.refused(user, 0.0, f"caller-{user.model}") for user in NO_NAMES[:20]]
    assert granted.count(True) == UNPROVEN_RENEWALS < RENEWALS
    rejections.accept(CHAT, math.inf)
    assert rejections.refused(CHAT, 1.0)


def test_models_that_reject_by_turns_leave_renewals_to_a_model_that_works():
    """As behind a balancer with one broken server: each accepts the new token, and rejects it later."""
    rejections = Renewing()
    for number in range(60):
        user = TokenUser("up", f"m{number % 3}")
        rejections.accept(user, math.inf)
        rejections.refused(user, number / 10, f"caller-{number % 2}")
    rejections.accept(CHAT, math.inf)
    assert rejections.refused(CHAT, 7.0, "another")


def test_one_caller_leaves_renewals_to_the_others():
    """Whatever it sends: uploads, which are not repeated, requests that it leaves, prompts that many models reject."""
    rejections, granted = Renewing(), []
    users = [TokenUser("up", f"m{number}") for number in range(RENEWALS + 4)]
    for user in users:
        for one in users:
            rejections.accept(one, math.inf)
        granted.append(rejections.refused(user, 0.0))
    assert granted == [True] * CALLER_RENEWALS + [False] * (RENEWALS + 4 - CALLER_RENEWALS)
    rejections.accept(CHAT, math.inf)
    assert rejections.refused(CHAT, 1.0, "another")
    assert [rejections.refused(CHAT, now) for now in (59.9, 60.0)] == [False, True]


def test_made_up_models_take_no_memory():
    rejections = Renewing()

    def refuse(users: list[TokenUser]) -> None:
        for user in users:
            rejections.accept(user, math.inf)
        for _ in range(2):
            rejections.renew(0.0)
            for user in users:
                rejections.reject(user, RAGFLOW, 0.0)
                rejections.rejected_again(user, RAGFLOW, 0.0)

    refuse(NO_NAMES[:MAX_USERS])
    with traced_memory() as memory:
        refuse(NO_NAMES[MAX_USERS:])
    assert memory.kept_bytes < 120 * MAX_USERS  # two tables of MAX_USERS in place of those before
    last, further = NO_NAMES[MAX_USERS - 1 : MAX_USERS + 1]
    assert [rejections.reject(user, RAGFLOW, 1.0) for user in (last, further)] == [False, True]
    for number in range(MAX_USERS + 1):
        rejections.reject(TokenUser(f"upstream-{number}"), RAGFLOW, 1.0)
    assert len(rejections.rejected_s) == MAX_USERS
    for _ in range(2):
        rejections.renew(60.0)
        rejections.rejected_again(CHAT, RAGFLOW, 60.0)
    assert not rejections.reject(CHAT, RAGFLOW, 60.0)


def test_callers_by_tokens_take_no_memory_and_each_has_its_part_of_the_renewals():
    rejections, served = Renewing(), [TokenUser("chat", f"m-{number}") for number in range(RENEWALS)]
    for number in range(20 * RENEWALS):
        for user in served:
            rejections.accept(user, math.inf)
        rejections.refused(served[number % RENEWALS], 10.0 * number, f"jwt:{number}")
        assert len(rejections._of_callers) <= RENEWALS + 1
    later_s, granted = 10.0 * number + WINDOW_S, []
    for user in served:
        for one in served:
            rejections.accept(one, math.inf)
        rejections.refused(user, later_s, "jwt:other") if user is served[0] else None
        granted.append(rejections.refused(user, later_s, "jwt:0"))
    assert granted.count(True) == CALLER_RENEWALS


def test_a_token_is_refused_until_a_user_that_does_not_refuse_it_accepts_it():
    rejections, seen = Renewing(), []
    for event in (
        lambda: rejections.reject(EMBED, RAGFLOW, 0.0),
        lambda: rejections.accept(CHAT, 0.0),
        lambda: rejections.reject(CHAT, RAGFLOW, 0.0),
        lambda: rejections.accept(CHAT, 0.0),
        lambda: rejections.reject(CHAT, RAGFLOW, 0.0),
        lambda: rejections.renew(1.0),
    ):
        event()
        seen.append(rejections.is_refused)
    assert seen == [True, False, True, False, True, False]


@pytest.mark.parametrize("accepts", [False, True])
def test_a_caller_whose_renewal_did_not_help_renews_nothing_for_a_minute_with_this_model(accepts):
    """Also one that is served in between, as a company behind one caller is: each failure would renew the token."""
    rejections = Renewing()
    for _ in range(2):
        assert rejections.refused(FORBIDDEN, 0.0)
        rejections.rejected_again(FORBIDDEN, RAGFLOW, 0.5)
    for now in range(5, 605):
        if accepts:
            rejections.accept(FORBIDDEN, now / 10)
        assert not rejections.refused(FORBIDDEN, now / 10)
    assert rejections.reject(CHAT, RAGFLOW, 30.0), "another model of the caller"
    assert not rejections.reject(FORBIDDEN, RAGFLOW, 30.0), "it does not wait for the renewal of others"
    rejections.renew(30.0)
    assert rejections.refused(FORBIDDEN, 30.0, AGENT), "another caller of the model"
    assert rejections.refused(FORBIDDEN, 60.5)


def test_a_refused_renewal_is_remembered_after_the_second_in_a_row():
    rejections = Renewing()

    def refused_again(now: float, caller: str = RAGFLOW) -> bool:
        is_granted = rejections.refused(FORBIDDEN, now, caller)
        rejections.rejected_again(FORBIDDEN, caller, now)
        return is_granted

    for now in (0.0, 1.0, 2.0):
        assert refused_again(now)
        assert rejections.accept(FORBIDDEN, now + 0.5), "the same token"
    rejections.accept(CHAT, math.inf)
    assert refused_again(3.0)
    for _ in range(9):
        rejections.rejected_again(FORBIDDEN, RAGFLOW, 3.0)  # requests that shared the renewal
    assert rejections.accept(CHAT, math.inf), "another model's success proves nothing"
    assert refused_again(4.0)
    assert not rejections.refused(FORBIDDEN, 5.0)
    rejections.renew(63.0)
    assert rejections.reject(FORBIDDEN, AGENT, 63.0), "another caller"
    assert not rejections.reject(FORBIDDEN, RAGFLOW, 63.0)
    assert rejections.reject(FORBIDDEN, RAGFLOW, 64.0)


@pytest.mark.parametrize("callers", [[RAGFLOW], [RAGFLOW, AGENT, "a", "b", "c"]])
def test_a_model_that_serves_some_and_refuses_others_leaves_renewals_to_those_that_work(callers):
    """Successes in between keep nothing in mind, so the bounds alone hold."""
    rejections, granted = Renewing(), 0
    for number in range(59):
        granted += rejections.refused(FORBIDDEN, number, callers[number % len(callers)])
        rejections.rejected_again(FORBIDDEN, RAGFLOW, number)
        rejections.accept(FORBIDDEN, math.inf)
    assert granted == UNPROVEN_RENEWALS
    rejections.accept(CHAT, math.inf)
    assert rejections.refused(CHAT, 59.0, "another")


def test_a_value_is_renewed_once_for_all_and_again_after_a_minute_if_it_is_issued_again():
    rejections = Renewing()
    assert rejections.reject(CHAT, RAGFLOW, 100.0)
    assert rejections.reject(EMBED, AGENT, 100.0), "it waits for the same renewal"
    rejections.renew(100.0, "token-1")
    assert [rejections.reject(CHAT, RAGFLOW, now) for now in (100.0, 159.9, 160.0)] == [False, False, True]
    rejections.renew(160.0, "new")
    assert rejections.refused(CHAT, 160.0)


def test_a_page_renews_once_a_minute_and_takes_no_renewal_of_a_401():
    rejections = Renewing()
    assert rejections.refused(CHAT, 0.0, is_page=True)
    rejections.rejected_again(CHAT, RAGFLOW, 0.0, is_page=True)
    assert not any(rejections.refused(by, now, is_page=True) for now in (0.1, 30.0, 59.9) for by in (CHAT, EMBED))
    assert rejections.refused(CHAT, 59.9), "a 401 of the same caller renews at once"
    assert rejections.reject(CHAT, RAGFLOW, 60.0, is_page=True)
    assert rejections.reject(EMBED, RAGFLOW, 60.0), "a rejection of the same token waits for the same renewal"
    rejections.renew(60.0)
    assert [rejections.refused(EMBED, 61.0 + now) for now in range(7)] == [True] * 5 + [False] * 2


def test_a_token_that_is_issued_again_after_a_page_may_still_be_rejected():
    rejections = Renewing()
    assert rejections.reject(CHAT, RAGFLOW, 0.0, is_page=True)
    rejections.renew(0.0, "token-1")
    assert rejections.reject(CHAT, RAGFLOW, 1.0)
    rejections.renew(1.0, "token-1")
    assert not rejections.reject(CHAT, RAGFLOW, 2.0), "its issuer has no other one"


@pytest.mark.parametrize("is_page", [False, True])
def test_a_rejection_is_over_when_a_request_that_was_sent_later_is_accepted(is_page):
    """A page is about its request alone only then: an answer that was under way proves nothing about the token."""
    rejections, upstream = Renewing(), TokenUser("chat")
    rejections.reject(CHAT, RAGFLOW, 5.0, is_page=is_page)
    rejections.renew(5.0)
    rejections.reject(CHAT, RAGFLOW, 6.0, is_page=is_page)
    assert not rejections.accept(CHAT, 5.5)
    assert (rejections.rejected_s, rejections.accepted_by) == ({upstream: 6.0}, set())
    assert rejections.accept(EMBED, 5.5), "another upstream"
    assert rejections.accept(CHAT, 6.5)
    assert (rejections.rejected_s, rejections.accepted_by) == ({}, {CHAT, EMBED})


# --- one credential of several upstreams and models ------------------------------------------------------------------


async def taken(it: RunningHolder, by: TokenUser) -> str:
    text = (await it.holder.token()).text
    it.holder.confirm(await it.holder.token(), by)
    return text


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


async def reason(it: RunningHolder, by: TokenUser, *, is_page: bool = False) -> str | None:
    """Why the rejection of the held token by `by` renews nothing; None where it renews."""
    await settle()
    token = await it.holder.token()
    return None if it.holder.reject(token.text, by, is_page=is_page) else it.holder.denial_reason()


async def test_a_token_that_was_returned_again_or_refused_twice_is_named_as_the_reason():
    async with kept(Mint(text="same"), Mint(text="same")) as it:
        assert await reason(it, CHAT) is None
        await it.clock.advance(1.0)
        assert [await reason(it, CHAT), await reason(it, CHAT, is_page=True)] == [REISSUED] * 2
    async with kept() as it:
        for _ in range(2):
            token = await it.holder.token()
            assert await reason(it, FORBIDDEN) is None
            await settle()
            it.holder.rejected_again(token, FORBIDDEN)  # a late answer
            it.holder.rejected_again(await it.holder.token(), FORBIDDEN)
        assert await reason(it, FORBIDDEN) == LIMITED
        assert await reason(it, CHAT, is_page=True) is None
        assert await reason(it, CHAT, is_page=True) == LIMITED
        await it.clock.advance(WINDOW_S)
        assert await reason(it, FORBIDDEN) is None
