"""Which refused requests have a log line, and how the others are logged together."""

import logging

import pytest

from gatepass.errors import GatepassError, InvalidApiKey, KeySetUnavailable, Overloaded, ReceiveTimeout
from gatepass.observability.access_log import ADDRESSES, LOG_INTERVAL_S, AccessLog
from gatepass.observability.observer import AccessRecord, Refusal, RequestRecord, RuleChange
from gatepass.server.parser import large_head
from tests.unit.http_client.loop import advance


class Book:
    """Notes refusals."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "gatepass")
        self.log = AccessLog()

    def note(self, error: GatepassError, times: int = 1) -> None:
        for _ in range(times):
            self.log.refused(Refusal(error, "192.0.2.7"))


async def test_a_refusal_is_logged_at_once_with_all_that_is_known_of_it(caplog: pytest.LogCaptureFixture):
    book = Book(caplog)
    book.note(large_head())
    assert caplog.records[0].__dict__["fields"] == {
        "status": 431,
        "code": "head_too_large",
        "hop": "client",
        "reason": "The request's head is larger than 65536 bytes.",
        "peer": "192.0.2.7",
        "count": 1,
    }


async def test_repeated_refusals_are_one_line_a_second_for_each_code(caplog: pytest.LogCaptureFixture):
    book = Book(caplog)
    for _ in range(4):
        book.note(Overloaded("full"), times=5)
        book.note(ReceiveTimeout("late"))
        await advance(LOG_INTERVAL_S / 2)
    assert {record.getMessage() for record in caplog.records} == {"refused"}
    logged = [record.__dict__["fields"] for record in caplog.records]
    assert [(fields["code"], fields["count"]) for fields in logged] == [
        *[("overloaded", 1), ("receive_timeout", 1)],
        *[("overloaded", 9), ("receive_timeout", 1)],
        *[("overloaded", 10), ("receive_timeout", 2)],
    ]


UNKNOWN = InvalidApiKey("The API key is not known to gatepass.")


async def test_each_address_has_a_line_and_a_flood_of_it_shares_one_a_second(caplog: pytest.LogCaptureFixture):
    book = Book(caplog)
    own = [book.log.has_line(UNKNOWN, peer) for _ in range(500) for peer in ("192.0.2.1", "192.0.2.2")]
    assert own == [True, True] + [False] * 998
    await advance(LOG_INTERVAL_S)
    fields = caplog.records[0].__dict__["fields"]
    assert (fields["code"], fields["peers"], fields["count"]) == (
        "invalid_api_key",
        {"192.0.2.1": 499, "192.0.2.2": 499},
        998,
    )
    assert [book.log.has_line(UNKNOWN, peer) for peer in ("192.0.2.1", "192.0.2.9")] == [False, True]
    assert len(caplog.records) == 1


async def test_a_flood_of_many_addresses_has_a_bounded_number_of_lines_and_names(caplog: pytest.LogCaptureFixture):
    book = Book(caplog)
    own = [book.log.has_line(UNKNOWN, f"192.0.2.{number}") for number in range(200)]
    await advance(LOG_INTERVAL_S)
    (record,) = caplog.records
    fields = record.__dict__["fields"]
    assert own == [True] * ADDRESSES + [False] * 190
    assert (len(fields["peers"]), fields["peers"]["others"], fields["count"]) == (ADDRESSES + 1, 180, 190)


@pytest.mark.attack("requests without a valid key by the thousand")
@pytest.mark.parametrize("error", [UNKNOWN, Overloaded("Too many new tokens."), KeySetUnavailable("no keys")], ids=type)
async def test_a_flood_without_a_caller_shares_a_line_whatever_its_status(caplog, error: GatepassError):
    book = Book(caplog)
    for _ in range(1000):
        access = AccessRecord("r", "POST", "/v1/models", "none", peer="192.0.2.7", status=error.http_status)
        book.log.request_ended(RequestRecord(access, None, 0.0, 0.0, 0.1, None, None), error)
    await advance(LOG_INTERVAL_S)
    own, common = caplog.records
    assert (own.message, own.__dict__["fields"]["peer"]) == ("request", "192.0.2.7")
    fields = common.__dict__["fields"]
    assert (common.message, fields["code"], fields["count"]) == ("refused", error.code, 999)
    assert own.levelname == common.levelname == ("WARNING" if error.http_status >= 500 else "INFO")
    # a caller's own failures have a line each
    for _ in range(3):
        access = AccessRecord("r", "POST", "/v1/models", "none", caller="batch", status=error.http_status)
        book.log.request_ended(RequestRecord(access, None, 0.0, 0.0, 0.1, None, None), error)
    assert len(caplog.records) == 5


@pytest.mark.parametrize("event", ["learned", "revoked", "failed"])
def test_a_change_of_a_rule_is_logged_with_its_caller(caplog: pytest.LogCaptureFixture, event: str):
    change = RuleChange("r1", event, "chat", "o3", "chat", "drop=seed", "no seed", "ragflow")
    Book(caplog).log.rule_changed(change)
    (record,) = caplog.records
    assert record.getMessage() == f"rule_{event}"
    assert record.__dict__["fields"] == {
        "id": "r1",
        "caller": "ragflow",
        "upstream": "chat",
        "model": "o3",
        "operation": "chat",
        "adapted": "drop=seed",
        "evidence": "no seed",
    }
