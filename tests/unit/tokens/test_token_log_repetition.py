from __future__ import annotations

from gatepass.observability.redaction import Redactor
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_log import MAX_REASONS, TokenLog
from gatepass.types import Secret


def test_the_same_reason_is_logged_once_a_minute_with_its_count():
    it = TokenLog("corp", Redactor())
    assert [it.count_to_report("down", float(now)) for now in range(0, 130, 10)] == [
        *(1, None, None, None, None, None),
        *(6, None, None, None, None, None),
        6,
    ]


def test_reasons_that_differ_only_in_numbers_are_equal():
    it = TokenLog("corp", Redactor())
    reasons = ("answered 500: id 4711", "answered 500: id 0815", "id 9f8e7d6c5b", "id 1a2b3c4d5e", "other")
    assert [it.count_to_report(reason, 0.0) for reason in reasons] == [1, None, 1, None, 1]


def test_failure_after_a_success_is_reported_at_once():
    it = TokenLog("corp", Redactor())
    it.count_to_report("down", 0.0)
    it.log_shared(Token(Secret("token-1"), 0.5, 300.0))
    assert it.count_to_report("down", 1.0) == 1


def test_an_issuer_with_a_new_text_each_time_is_logged_once_a_minute():
    it = TokenLog("corp", Redactor())
    words = [f"{chr(97 + at % 26)}{chr(103 + at // 26)}" for at in range(200)]
    reported = [it.count_to_report(word, 0.0) for word in words]
    assert sum(times is not None for times in reported) == MAX_REASONS + 1
    assert it.count_to_report("something else", 60.0) == 200 - MAX_REASONS
