import pytest

from gatepass.observability.redaction import KEPT, MASK, Redactor
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_log import MAX_REASONS, TokenLog
from gatepass.types import Secret


@pytest.fixture
def log() -> TokenLog:
    return TokenLog("corp", Redactor())


def masked(log: TokenLog, kind: str, count: int) -> int:
    """Return how many of the values `KIND-00000` up to `count` are masked, which must be the last ones."""
    texts = [log.redactor.mask(f"{kind}-{number:05}") for number in range(count)]
    found = texts.count(MASK)
    assert texts[count - found :] == [MASK] * found
    return found


def test_a_secret_that_is_rotated_for_months_is_remembered_by_its_last_values(log):
    """A projected token of Kubernetes changes every 50 minutes."""
    for number in range(720):
        log.mask_secrets((Secret(f"first-{number:05}"), Secret("the-same-secret"), Secret(f"other-{number:05}")))
    assert (masked(log, "first", 720), masked(log, "other", 720)) == (KEPT, KEPT)
    assert log.redactor.mask("the-same-secret") == MASK


@pytest.mark.parametrize("lifetime_s", [300.0, None])
def test_only_the_last_tokens_and_keys_are_masked(log, lifetime_s):
    for number in range(0, 100, 2):
        log.log_fetched(Token(Secret(f"token-{number:05}"), 0.0, lifetime_s), 0.1)
        log.log_fetched(Token(Secret(f"token-{number + 1:05}"), 0.0, lifetime_s, from_store=True), 0.1)
    assert (masked(log, "token", 100), log.fetches) == (KEPT, 50)


def test_hash_of_the_secrets_changes_only_with_them(log):
    first = log.mask_secrets((Secret("one-secret"), Secret("x")))
    assert log.mask_secrets((Secret("one-secret"), Secret("x"))) == first
    assert log.mask_secrets((Secret("one-secret"), Secret("y"))) != first


def test_the_same_reason_is_logged_once_a_minute_with_its_count(log):
    assert [log.count_to_report("down", float(now)) for now in range(0, 130, 10)] == [
        *(1, None, None, None, None, None),
        *(6, None, None, None, None, None),
        6,
    ]


def test_reasons_that_differ_only_in_numbers_are_equal(log):
    reasons = ("answered 500: id 4711", "answered 500: id 0815", "id 9f8e7d6c5b", "id 1a2b3c4d5e", "other")
    assert [log.count_to_report(reason, 0.0) for reason in reasons] == [1, None, 1, None, 1]


def test_failure_after_a_success_is_reported_at_once(log):
    log.count_to_report("down", 0.0)
    log.log_shared(Token(Secret("token-1"), 0.5, 300.0))
    assert log.count_to_report("down", 1.0) == 1


def test_an_issuer_with_a_new_text_each_time_is_logged_once_a_minute(log):
    words = [f"{chr(97 + at % 26)}{chr(103 + at // 26)}" for at in range(200)]
    reported = [log.count_to_report(word, 0.0) for word in words]
    assert sum(times is not None for times in reported) == MAX_REASONS + 1
    assert log.count_to_report("something else", 60.0) == 200 - MAX_REASONS
