"""What a process counts of each day, and how many names a day has."""

import pytest

from gatepass.observability.metrics import MAX_NAMES, MAX_TOKENS, Metrics
from gatepass.observability.observer import AccessRecord, RequestRecord
from gatepass.observability.usage_ledger import DAY_S, DAYS, MAX_ROWS, DayUse, UsageLedger
from gatepass.sse.usage import Usage
from tests.unit.clock import DrivenClock

TODAY = 20_000
USED = Usage(100, 20, 120, 30, 5)


def ledger_at(clock: DrivenClock, metrics: Metrics | None = None) -> UsageLedger:
    metrics = metrics or Metrics()
    return UsageLedger(lambda key: metrics.of(key).labels, clock.wall)


def ended(
    ledger: UsageLedger, caller: str = "ana", usage: Usage | None = USED, outcome: str = "ok", model: str = "m"
) -> None:
    access = AccessRecord("one", "POST", "/", "chat", caller, model=model, outcome=outcome, usage=usage)
    ledger.request_ended(RequestRecord(access, None, 0.0, 0.0, 1.0, None, 0.0), None)


def test_requests_errors_and_tokens_are_added_up_in_the_day_in_which_they_end():
    clock = DrivenClock(wall=TODAY * DAY_S + DAY_S - 1)
    metrics = Metrics()
    metrics.attach(metrics.exposition, lambda name: name)  # type: ignore[arg-type]  # the sample is not read
    ledger = ledger_at(clock, metrics)
    ended(ledger)
    ended(ledger, usage=None, outcome="error")
    ended(ledger, usage=None, outcome="client_gone")
    ended(ledger, usage=Usage(MAX_TOKENS + 1, 7))
    ended(ledger, caller="")  # refused before its caller was known
    clock.jump_wall(1)
    ended(ledger, "ben", model="")
    found = {day: use.rows() for day, use in ledger.days.items()}
    assert found == {
        TODAY: [("ana", "m", [4, 1, 100, 30, 27, 5])],
        TODAY + 1: [("ben", "none", [1, 0, 100, 30, 20, 5])],
    }


def test_names_that_clients_invent_take_no_place():
    ledger = ledger_at(DrivenClock())
    for number in range(300):
        ended(ledger, model=f"invented-{number}")
    (use,) = ledger.days.values()
    assert [row[:2] for row in use.rows()] == [("ana", "other")]


def test_days_that_are_not_shown_are_forgotten():
    clock = DrivenClock(wall=TODAY * DAY_S)
    ledger = ledger_at(clock)
    for _ in range(DAYS + 5):
        ended(ledger)
        clock.jump_wall(DAY_S)
    assert [*ledger.days] == [*range(TODAY + 5, TODAY + DAYS + 5)]


@pytest.mark.parametrize("names", [("{}", "m"), ("ana", "{}")])
def test_a_day_has_a_limited_number_of_callers_and_models(names):
    use = DayUse()
    for number in range(MAX_NAMES + 50):
        caller, model = (name.format(number) for name in names)
        use.add([(caller, model, (1, 0, 2))])
    rows = use.rows()
    assert len(rows) == MAX_NAMES + 1
    assert [row[2][0] for row in rows if "other" in row] == [50]


def test_a_day_has_a_limited_number_of_pairs():
    use = DayUse()
    for number in range(MAX_ROWS + 10):
        use.add([(f"caller-{number // 100}", f"model-{number % 100}", (1,))] * 2)
    assert len(use.rows()) == MAX_ROWS + 1
    assert use.rows()[-1] == ("other", "other", [20, 0, 0, 0, 0, 0])
