"""The limits of a process whose store replies what no script of gatepass replies."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from gatepass.config.use_limits import SPANS
from gatepass.policy.limits import CONCURRENT, REQUESTS, TOKENS, Limit, Refused, Taken
from gatepass.proxy import shared_counts
from gatepass.proxy.shared_counts import SharedCounts
from gatepass.store.guarded import GuardedStore
from tests.unit.clock import DrivenClock

LONG = "9" * 400


class Lying:
    """Replies `text` to each command."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked = 0

    def name_of(self, name: str) -> str:
        return name

    async def evaluate(self, script: str, commands: Sequence[Any]) -> list[bytes]:
        self.asked += 1
        return [self.text.encode() for _ in commands]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(
    "reply", ["", "1", f"1 0 {LONG}", f"1 {LONG} -1", f"{LONG} 0 -1", "x 0 -1", "1 inf -1", "1 0 nan", "1 0 1 2 3"]
)
async def test_a_number_that_no_server_counts_is_no_reply(reply: str, span: str, caplog) -> None:
    store = Lying(reply)
    counts = SharedCounts(cast(GuardedStore, store), DrivenClock())
    counts.start()
    limit = counts.attach(Limit(("caller", "ana"), REQUESTS, span, 2))
    limit.ahead_s = 1_800_000_000.0 - 1_000.0
    one = {REQUESTS: 1, TOKENS: 0, CONCURRENT: 1}
    taken = [await counts.admit([limit], one, 1_000.0) for _ in range(3)]
    assert [isinstance(one, Taken) for one in taken] == [True, True, False], "the process decides alone"
    assert (counts.fault is None, store.asked) == (False, 1)
    assert {record.getMessage() for record in caplog.records} == {"limits_without_store"}
    await counts._tasks.aclose()


async def test_a_limit_that_is_free_in_less_than_a_millisecond_refuses() -> None:
    counts = SharedCounts(cast(GuardedStore, Lying("1 2 0")), DrivenClock())
    counts.start()
    limit = counts.attach(Limit(("caller", "ana"), REQUESTS, "minute", 2))
    assert isinstance(await counts.admit([limit], {REQUESTS: 1}, 1_000.0), Refused)
    await counts._tasks.aclose()


async def test_the_names_of_callers_by_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_counts, "MOST_SUBJECTS", 3)
    counts = SharedCounts(cast(GuardedStore, Lying("1 1 -1")), DrivenClock())
    counts.start()
    for number in range(10):
        limit = Limit(("jwt", f"people/{number}"), REQUESTS, "minute", 2)
        assert isinstance(await counts.admit([limit], {REQUESTS: 1}, 1_000.0), Taken)
        assert len(counts._names) <= 3
    await counts._tasks.aclose()
