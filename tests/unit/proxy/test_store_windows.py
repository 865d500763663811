"""The limits of a process whose store replies what no script of gatepass replies."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from gatepass.policy.windows import REQUESTS, Limit, Taken
from gatepass.proxy.store_windows import StoreWindows
from gatepass.store.guarded import GuardedStore
from tests.unit.clock import DrivenClock

LONG, FAR = "9" * 400, "9" * 15


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


@pytest.mark.parametrize("span", [("minute", 60), ("day", 86_400), ("month", 2_678_400)])
@pytest.mark.parametrize(
    "reply",
    [f"1 0 2 3 {LONG}", f"1 0 {LONG} 3 -1", f"1 0 2 {LONG} 9", f"1 {LONG} 2 3 -1", f"1 0 2 {FAR} 5", "1 0 x 3 5"],
)
async def test_a_number_that_no_server_counts_is_no_reply(reply: str, span: tuple[str, int], caplog) -> None:
    store = Lying(reply)
    windows = StoreWindows(cast(GuardedStore, store), DrivenClock())
    windows.start()
    limit = windows.attach(Limit(("caller", "ana"), REQUESTS, span, 2, is_calendar=span[0] != "minute"))
    limit.ahead_s = 1_800_000_000.0 - 1_000.0
    taken = [await windows.admit([limit], 0, 1_000.0) for _ in range(3)]
    if f" {FAR} " in reply and span[0] == "minute":  # such a part may be that of a server whose clock is wrong
        assert not isinstance(taken[0], Taken)
        assert windows.fault is None
    else:
        assert [isinstance(one, Taken) for one in taken] == [True, True, False], "the process decides alone"
        assert (windows.fault is None, store.asked) == (False, 1)
    assert {record.getMessage() for record in caplog.records} <= {"limits_without_store"}
    await windows._tasks.aclose()
