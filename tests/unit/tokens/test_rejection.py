from __future__ import annotations

from gatepass.call import Secret
from gatepass.tokens.life import Token
from gatepass.tokens.rejection import Rejections


def token(text: str = "abc") -> Token:
    return Token(Secret(text), 0.0, 300.0)


def test_six_fetches_a_minute_are_granted():
    rejections, abc = Rejections(), token()
    assert [rejections.grant(abc, "chat", float(now)) for now in range(8)] == [True] * 6 + [False] * 2
    granted = [rejections.grant(abc, "chat", now) for now in (59.9, 60.0, 60.5, 61.0)]
    assert granted == [False, True, False, True]


def test_upstreams_are_counted_each_by_itself():
    rejections, abc = Rejections(), token()
    assert [rejections.grant(abc, "embed", 0.0) for _ in range(7)] == [True] * 6 + [False]
    assert [rejections.grant(abc, "chat", 0.0) for _ in range(7)] == [True] * 6 + [False]


def test_the_end_of_a_token_that_worked_counts_for_nothing():
    rejections = Rejections()
    for turn in range(20):
        used = token(f"token-{turn}")
        rejections.confirm(used, "chat")
        assert rejections.grant(used, "chat", 0.0)


def test_what_one_upstream_took_another_may_refuse_and_that_counts():
    rejections, granted = Rejections(), []
    for turn in range(8):
        used = token(f"token-{turn}")
        rejections.confirm(used, "chat")
        granted.append(rejections.grant(used, "embed", 0.0))
    assert granted == [True] * 6 + [False] * 2
    assert rejections.grant(used, "chat", 0.0)


def test_two_upstreams_that_took_a_token_may_both_see_its_end():
    rejections, abc = Rejections(), token()
    rejections.confirm(abc, "chat")
    rejections.confirm(abc, "embed")
    for _ in range(10):
        assert rejections.grant(abc, "chat", 0.0)
        assert rejections.grant(abc, "embed", 0.0)


def test_a_confirmation_does_not_outlive_its_token():
    rejections = Rejections()
    rejections.confirm(token("old"), "embed")
    rejections.confirm(token("new"), "chat")
    new = token("new")
    rejections.confirm(new, "chat")
    assert [rejections.grant(new, "embed", 0.0) for _ in range(7)] == [True] * 6 + [False]


def test_an_upstream_that_takes_and_refuses_in_turns_is_bounded_by_what_was_in_vain():
    """A 403 that is configured as a rejection, and a model that this caller may not use at all."""
    rejections, granted = Rejections(), []
    for turn in range(8):
        used = token(f"token-{turn}")
        rejections.confirm(used, "chat")
        granted.append(rejections.grant(used, "chat", float(turn)))
        rejections.in_vain("chat", float(turn))
    assert granted == [True] * 6 + [False] * 2
    rejections.confirm(used, "chat")
    assert rejections.grant(used, "chat", 60.0)


def test_a_fetch_in_vain_is_counted_once_however_many_tell_of_it():
    rejections, used = Rejections(), token()
    rejections.confirm(used, "chat")
    assert rejections.grant(used, "chat", 0.0)
    for _ in range(500):
        rejections.in_vain("chat", 0.0)
    assert repr(rejections) == "Rejections(1 fetches counted)"


def test_a_fetch_that_was_counted_at_once_is_not_counted_again_in_vain():
    rejections = Rejections()
    assert rejections.grant(token(), "chat", 0.0)
    rejections.in_vain("chat", 0.0)
    assert repr(rejections) == "Rejections(1 fetches counted)"


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
    rejections.confirm(token("abc-secret"), "chat")
    assert repr(rejections) == "Rejections(0 fetches counted)"
