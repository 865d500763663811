from __future__ import annotations

from gatepass.call import Secret
from gatepass.tokens.life import Token
from gatepass.tokens.rejection import USERS, Rejections, User

CHAT, EMBED = User("chat", "m"), User("embed", "e")


def token(text: str = "abc") -> Token:
    return Token(Secret(text), 0.0, 300.0)


def test_six_fetches_a_minute_are_granted():
    rejections, abc = Rejections(), token()
    assert [rejections.grant(abc, CHAT, float(now)) for now in range(8)] == [True] * 6 + [False] * 2
    granted = [rejections.grant(abc, CHAT, now) for now in (59.9, 60.0, 60.5, 61.0)]
    assert granted == [False, True, False, True]


def test_upstreams_are_counted_each_by_itself():
    rejections, abc = Rejections(), token()
    assert [rejections.grant(abc, EMBED, 0.0) for _ in range(7)] == [True] * 6 + [False]
    assert [rejections.grant(abc, CHAT, 0.0) for _ in range(7)] == [True] * 6 + [False]


def test_models_that_were_never_served_share_what_their_upstream_has():
    rejections, abc = Rejections(), token()
    granted = [rejections.grant(abc, User("chat", f"made-up-{number}"), 0.0) for number in range(8)]
    assert granted == [True] * 6 + [False] * 2


def test_a_model_that_was_served_has_a_budget_of_its_own():
    rejections, abc = Rejections(), token()
    rejections.confirm(abc, CHAT, 0.0)
    for _ in range(8):
        rejections.grant(abc, User("chat", "forbidden"), 0.0)
    assert rejections.grant(abc, CHAT, 0.0)
    rejections.in_vain(CHAT, 0.0)
    later = [rejections.grant(token("def"), CHAT, 1.0) for _ in range(8)]
    assert later == [True] * 5 + [False] * 3


def test_tokens_that_worked_may_end_one_a_second_and_twenty_a_minute():
    rejections, granted = Rejections(), []
    for turn in range(400):
        used = token(f"token-{turn}")
        rejections.confirm(used, CHAT, turn / 10)
        granted.append(rejections.grant(used, CHAT, turn / 10))
    assert [turn for turn in range(400) if granted[turn]] == [10 * number for number in range(20)]
    rejections.confirm(used, CHAT, 60.0)
    assert rejections.grant(used, CHAT, 60.0)


def test_tokens_for_one_use_are_rejected_all_day_long_at_the_pace_of_people():
    rejections = Rejections()
    for turn in range(500):
        used = token(f"token-{turn}")
        rejections.confirm(used, CHAT, turn * 3.0)
        assert rejections.grant(used, CHAT, turn * 3.0)


def test_what_one_upstream_took_another_may_refuse_and_that_counts():
    rejections, granted = Rejections(), []
    for turn in range(8):
        used = token(f"token-{turn}")
        rejections.confirm(used, CHAT, 0.0)
        granted.append(rejections.grant(used, EMBED, 0.0))
    assert granted == [True] * 6 + [False] * 2
    assert rejections.grant(used, CHAT, 0.0)


def test_two_upstreams_that_took_a_token_may_both_see_its_end():
    rejections, abc = Rejections(), token()
    rejections.confirm(abc, CHAT, 0.0)
    rejections.confirm(abc, EMBED, 0.0)
    for turn in range(20):
        assert rejections.grant(abc, CHAT, turn * 3.0)
        assert rejections.grant(abc, EMBED, turn * 3.0)


def test_a_confirmation_does_not_outlive_its_token():
    rejections, new = Rejections(), token("new")
    rejections.confirm(token("old"), EMBED, 0.0)
    rejections.confirm(new, CHAT, 0.0)
    assert [rejections.grant(new, EMBED, 0.0) for _ in range(7)] == [True] * 6 + [False]


def test_an_upstream_that_takes_and_refuses_in_turns_is_bounded_by_what_was_in_vain():
    """A 403 that is configured as a rejection, and a model that this caller may not use at all."""
    rejections, granted = Rejections(), []
    for turn in range(8):
        used = token(f"token-{turn}")
        rejections.confirm(used, CHAT, float(turn))
        granted.append(rejections.grant(used, CHAT, float(turn)))
        rejections.in_vain(CHAT, float(turn))
    assert granted == [True] * 6 + [False] * 2
    rejections.confirm(used, CHAT, 60.0)
    assert rejections.grant(used, CHAT, 60.0)


def test_a_fetch_in_vain_is_counted_once_however_many_tell_of_it():
    rejections, used = Rejections(), token()
    rejections.confirm(used, CHAT, 0.0)
    assert rejections.grant(used, CHAT, 0.0)
    for _ in range(500):
        rejections.in_vain(CHAT, 0.0)
    assert [rejections.grant(token("other"), CHAT, 2.0) for _ in range(6)] == [True] * 5 + [False]


def test_a_fetch_that_was_counted_at_once_is_not_counted_again_in_vain():
    rejections = Rejections()
    assert rejections.grant(token(), CHAT, 0.0)
    rejections.in_vain(CHAT, 0.0)
    assert [rejections.grant(token(), CHAT, 0.0) for _ in range(6)] == [True] * 5 + [False]


def test_a_fetch_that_another_caused_is_not_counted_in_vain():
    rejections = Rejections()
    rejections.confirm(token(), CHAT, 0.0)
    rejections.in_vain(CHAT, 0.0)
    assert [rejections.grant(token("other"), CHAT, 0.0) for _ in range(7)] == [True] * 6 + [False]


def test_all_users_together_cause_sixty_fetches_a_minute():
    rejections, granted = Rejections(), 0
    users = [User("chat", f"model-{number}") for number in range(USERS)]
    for turn in range(10):
        used = token(f"token-{turn}")
        for user in users:
            rejections.confirm(used, user, float(turn))
        granted += sum(rejections.grant(used, user, float(turn)) for user in users)
    assert granted == 60
    assert rejections.grant(used, users[0], 60.0)


def test_made_up_models_take_no_budget_from_who_has_one_and_no_memory():
    rejections, abc = Rejections(), token()
    rejections.confirm(abc, CHAT, 0.0)
    assert rejections.grant(abc, CHAT, 0.0)
    for number in range(10 * USERS):
        rejections.confirm(token(f"token-{number}"), User("chat", f"made-up-{number}"), 1.0)
    assert len(rejections._own) == USERS
    assert CHAT in rejections._own
    used = token("last")
    for number in range(10 * USERS):
        rejections.confirm(used, User("chat", f"again-{number}"), 1.0)
    assert len(rejections._takers) <= USERS


def test_who_comes_when_all_budgets_are_in_use_shares_its_upstreams():
    rejections, abc = Rejections(), token()
    users = [User("chat", f"model-{number}") for number in range(USERS)]
    for user in users:
        rejections.confirm(abc, user, 0.0)
        rejections._own[user].spend(0.0, has_worked=True)
    late = User("chat", "late")
    rejections.confirm(token("def"), late, 1.0)
    assert late not in rejections._own
    assert [rejections.grant(abc, late, 1.0) for _ in range(7)] == [True] * 6 + [False]
    rejections.confirm(token("ghi"), late, 61.0)
    assert late in rejections._own


def test_who_took_a_token_beside_those_who_refused_it():
    rejections, abc = Rejections(), token()
    assert not rejections.is_taken(abc, set())
    rejections.confirm(abc, CHAT, 0.0)
    assert rejections.is_taken(abc, {EMBED})
    assert not rejections.is_taken(abc, {CHAT, EMBED})
    assert not rejections.is_taken(token("def"), set())


def test_a_token_that_the_issuer_stands_by_is_let_be_for_10_seconds():
    rejections = Rejections()
    rejections.note("abc")
    assert not rejections.resting("abc", 100.0)
    rejections.minted("abc", 100.0)
    assert [rejections.resting("abc", now) for now in (100.0, 109.9, 110.0)] == [True, True, False]
    assert not rejections.resting("other", 100.0)


def test_another_token_ends_the_rest():
    rejections = Rejections()
    rejections.note("abc")
    rejections.minted("abc", 100.0)
    rejections.minted("def", 101.0)
    assert not rejections.resting("abc", 102.0)


def test_a_mint_without_a_rejection_gives_no_rest():
    rejections = Rejections()
    rejections.minted("abc", 100.0)
    assert not rejections.resting("abc", 100.0)


def test_repr_hides_the_token():
    rejections = Rejections()
    rejections.note("abc-secret")
    rejections.confirm(token("abc-secret"), CHAT, 0.0)
    assert repr(rejections) == "Rejections(0 fetches granted)"
