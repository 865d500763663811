from dataclasses import replace

import pytest

from gatepass.tokens.failure import FailureKind, FetchFailure
from gatepass.tokens.lifetime import LifetimeSource, Token, TokenKind
from gatepass.tokens.sharing import FailureRecord, TokenRecord
from gatepass.types import Secret

TOKEN = Token(Secret("minted"), 90.0, 300.0, TokenKind.JWT, LifetimeSource.JWT, "data.expires")


def test_token_is_equal_after_the_store():
    record = TokenRecord(TOKEN)
    back = TokenRecord.decoded(record.encoded())
    assert back is not None
    assert (back.id, back.token.text) == (record.id, "minted")
    assert replace(back.token, value=TOKEN.value) == TOKEN


def test_the_same_token_stored_twice_is_two_records():
    assert TokenRecord(TOKEN) != TokenRecord(TOKEN)


def test_a_record_does_not_print_its_token():
    assert "minted" not in repr(TokenRecord(TOKEN))


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"text":1}',
        b"\xff",
        b'{"token":{"value":"x","requested_s":1,"lifetime_s":1,"kind":"new"},"id":"a"}',
        b'{"token":{"value":1,"requested_s":1,"lifetime_s":1},"id":"a"}',
    ],
)
def test_records_of_another_version_are_ignored(data):
    assert TokenRecord.decoded(data) is None
    assert FailureRecord.decoded(data) is None


@pytest.mark.parametrize(
    ("failure", "began_s", "refusals", "until_s"),
    [
        (FetchFailure("no", FailureKind.REFUSED), 999.0, 2, 1060.0),
        (FetchFailure("?", FailureKind.LIMITED), 1000.0, 1, 1030.0),
        (FetchFailure("oh"), 1000.0, 0, 1002.0),
        (FetchFailure("oh", credential="corp"), 999.5, 0, 1001.5),
        (FetchFailure("oh"), 990.0, 0, 1000.0),
    ],
)
def test_a_failure_is_shared_with_the_rest_of_its_pause(failure, began_s, refusals, until_s):
    """The pause after a failure that may pass counts from the start of its fetch."""
    record = FailureRecord.decoded(FailureRecord.of(failure, "me", began_s, 1000.0, refusals).encoded())
    assert record is not None
    assert (record.owner, record.until_s) == ("me", until_s)
    reported = record.failure(999.0)
    assert (reported.reason, reported.kind, reported.credential) == (failure.reason, failure.kind, failure.credential)
    assert (reported.retry_after_s, reported.from_other_process) == (until_s - 999.0, True)


def test_a_failure_holds_for_the_others_until_its_hold_ends():
    record = FailureRecord.of(FetchFailure("no", FailureKind.REFUSED), "me", 1000.0, 1000.0, 1)
    assert record.applies_to("they", 1029.0)
    assert not record.applies_to("they", 1030.0)
    assert not record.applies_to("me", 1001.0)


def test_the_process_that_failed_lets_another_lead_for_a_moment_after_its_pause():
    record = FailureRecord.of(FetchFailure("oh"), "me", 1000.0, 1000.0, 0)
    moments = (1001.9, 1002.0, 1002.4, 1002.5)
    assert [moment for moment in moments if record.yields_lead("me", moment)] == [1002.0, 1002.4]
    assert not record.yields_lead("they", 1002.0)
