from __future__ import annotations

from gatepass.tokens.rejection import Rejections


def test_six_fetches_a_minute_are_granted():
    rejections = Rejections()
    assert [rejections.grant(float(now)) for now in range(8)] == [True] * 6 + [False] * 2
    assert [rejections.grant(now) for now in (59.9, 60.0, 60.5, 61.0)] == [False, True, False, True]


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
    assert repr(rejections) == "Rejections(0 fetches granted)"
