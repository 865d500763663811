from __future__ import annotations

import random
from itertools import pairwise

import pytest

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


def test_tokens_that_never_worked_are_renewed_six_times_a_minute():
    rejections = Renewing()
    assert [rejections.refused(CHAT, float(now)) for now in range(8)] == [True] * 6 + [False] * 2
    granted = [rejections.refused(CHAT, now) for now in (59.9, 60.0, 60.5, 61.0)]
    assert granted == [False, True, False, True]


def test_all_users_share_one_rate():
    rejections = Renewing()
    users = [TokenUser("chat", f"made-up-{number}") for number in range(5)] + [EMBED, CHAT, FORBIDDEN]
    assert [rejections.refused(user, 0.0) for user in users] == [True] * 6 + [False] * 2


def renewed_at(rejections: Renewing, now: float) -> float | None:
    """Let the current token work, and end at `now`. Return when it is renewed, None if it is not."""
    rejections.accept(CHAT)
    if not rejections.reject(CHAT, now):
        return None
    rejections.renew(rejections.renew_at_s)
    return rejections.renew_at_s


def test_the_second_end_within_a_second_waits_for_a_second():
    rejections = Renewing()
    assert [renewed_at(rejections, now) for now in (10.0, 10.2, 11.25, 16.0)] == [10.0, 11.2, 12.25, 16.0]


def test_renewals_are_two_seconds_apart_as_far_as_a_request_may_wait():
    rejections = Renewing()
    assert [renewed_at(rejections, now) for now in (10.0, 11.5, 14.25, 16.25)] == [10.0, 12.0, 14.25, 16.25]


@pytest.mark.parametrize("seed", range(20))
def test_tokens_that_worked_are_renewed_once_a_second_and_forty_a_minute(seed):
    chance, rejections, now = random.Random(seed), Renewing(), 0.0
    renewed: list[float] = []
    for _ in range(400):
        now = max(now, rejections.renew_at_s) + chance.choice((0.0, 0.01, 0.5, 1.0, 3.0)) * chance.random()
        at_s = renewed_at(rejections, now)
        if at_s is not None:
            assert now <= at_s <= now + MAX_RENEWAL_WAIT_S
            renewed.append(at_s)
    assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in pairwise(renewed))
    assert all(later - earlier >= WINDOW_S for earlier, later in zip(renewed, renewed[RENEWALS:], strict=False))


def test_a_token_that_worked_for_nobody_is_renewed_without_a_wait_as_often_as_before():
    rejections = Renewing()
    assert renewed_at(rejections, 0.0) == 0.0
    assert [rejections.reject(EMBED, 0.1), rejections.renew_at_s] == [True, 0.1]


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


def test_tokens_for_one_use_are_rejected_all_day_long_at_the_pace_of_people():
    rejections = Renewing()
    for number in range(500):
        rejections.accept(CHAT)
        assert rejections.refused(CHAT, number * 3.0)


def test_model_that_always_rejects_uses_no_renewal_of_a_served_model():
    rejections = Renewing()
    for number in range(20):
        rejections.refused(TokenUser("chat", f"made-up-{number}"), float(number))
    rejections.accept(CHAT)
    assert rejections.refused(CHAT, 20.0)


def test_one_rejection_renews_the_token_for_all_users_that_refuse_it():
    rejections = Renewing()
    assert [rejections.reject(TokenUser("chat", f"m-{number}"), 0.0) for number in range(500)] == [True] * 500
    rejections.renew(0.0)
    assert [rejections.refused(CHAT, 1.0) for _ in range(9)].count(True) == UNPROVEN_RENEWALS - 1


def test_a_user_that_refused_the_renewed_token_too_renews_nothing_for_a_minute():
    rejections = Renewing()
    assert rejections.refused(FORBIDDEN, 0.0)
    rejections.rejected_again(FORBIDDEN, 0.5)
    assert not any(rejections.refused(FORBIDDEN, now / 10) for now in range(5, 605))
    assert rejections.refused(CHAT, 30.0)
    assert rejections.refused(FORBIDDEN, 60.5)


def test_user_that_rejects_every_token_does_not_wait_for_others():
    rejections = Renewing()
    rejections.rejected_again(FORBIDDEN, 0.0)
    assert rejections.reject(CHAT, 1.0)
    assert not rejections.reject(FORBIDDEN, 1.0)


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


def test_acceptance_is_forgotten_with_its_token():
    rejections = Renewing()
    rejections.accept(EMBED)
    rejections.renew(0.0)
    assert [rejections.refused(EMBED, 0.0) for _ in range(7)] == [True] * 6 + [False]


def test_reissued_token_is_not_renewed_for_10_seconds():
    rejections = Renewing()
    assert rejections.reject(CHAT, 100.0)
    rejections.renew(100.0, "token-1")
    assert [rejections.reject(CHAT, now) for now in (100.0, 109.9, 110.0)] == [False, False, True]


def test_new_token_ends_the_renewal_pause():
    rejections = Renewing()
    assert rejections.reject(CHAT, 100.0)
    rejections.renew(100.0, "token-1")
    rejections.renew(101.0)
    assert rejections.reject(CHAT, 102.0)


def test_rejection_applies_to_the_token_object_and_not_its_text():
    rejections, first, again = RenewalLimiter(), token(), token()
    rejections.set_current(first, 0.0)
    assert not rejections.is_rejected(first)
    assert rejections.reject(CHAT, 0.0)
    assert rejections.is_rejected(first)
    assert not rejections.is_rejected(again)
