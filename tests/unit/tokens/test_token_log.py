import pytest

from gatepass.observability.redaction import KEPT, MASK, Redactor
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_log import TokenLog
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


def test_failures_are_logged_once_a_minute_with_their_count_and_at_once_after_a_token(log, caplog):
    def failed(at_s: int) -> None:
        log.log_failed(FetchFailure(f"reason {at_s}"), 0.0, float(at_s))

    for at_s in range(0, 130, 10):
        failed(at_s)
    log.log_shared(Token(Secret("token-1"), 125.5, 300.0))
    failed(131)
    found = [(record.fields["reason"], record.fields["times"]) for record in caplog.records]
    assert found == [("reason 0", 1), ("reason 60", 6), ("reason 120", 6), ("reason 131", 1)]
