"""What workers count together: a kill in an update, a holder that is stopped, and a file that is full."""

import fcntl
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from gatepass.policy import shared_windows, windows
from gatepass.policy.shared_windows import SharedWindows
from gatepass.policy.windows import CONCURRENT, REQUESTS, TOKENS, Limit, Refused, Taken


def requests(most: int, owner: str = "ana") -> Limit:
    return Limit(("caller", owner), REQUESTS, ("minute", 60), most)


class Killed(Exception):
    pass


def kill_at(line: int, shared: SharedWindows, limits: Sequence[Limit], now_s: float) -> None:
    """Take and settle up to the line of that number within the updates of the records."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != windows.__file__:
            return None
        left -= event == "line"
        if not left:
            raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(Killed):
            taken = shared.take(limits, 10, now_s)
            assert isinstance(taken, Taken)
            shared.settle(taken, 30, now_s + 0.01)
    finally:
        sys.settrace(before)


def test_a_kill_at_any_line_of_an_update_leaves_the_totals_right(tmp_path):
    """The kernel releases the lock of a killed process, as the end of `take` does here."""
    own, other = SharedWindows(tmp_path / "limits"), SharedWindows(tmp_path / "limits")
    other.pid = 2**22 + 1  # above the largest pid of Linux
    spans = ((REQUESTS, ("second", 1)), (TOKENS, ("second", 1)), (CONCURRENT, ("", 0)))
    limits, killed = (
        [one.attach(Limit(("caller", "ana"), unit, span, 10**6)) for unit, span in spans] for one in (own, other)
    )
    lines = [*range(1, 250)] * 2  # a process that has its place runs fewer
    for number, line in enumerate(lines):
        now_s = 1_000.0 + number / 200
        kill_at(line, other, killed, now_s)
        taken = own.take(limits, 1, now_s)
        assert isinstance(taken, Taken)
        own.settle(taken, 1, now_s)
        for limit in limits:
            limit.drop_dead(windows.process_exists)
            counts = limit.words[4:] if limit.width_s else limit.words[5::2]
            assert (limit.words[2], limit.words[3]) == (sum(counts.tolist()), 0), (line, limit.name)
        assert limits[2].used(now_s) == 0


def test_workers_share_one_limit(tmp_path):
    one, two = SharedWindows(tmp_path / "limits"), SharedWindows(tmp_path / "limits")
    first, second = one.attach(requests(3)), two.attach(requests(3))
    assert isinstance(one.take([first], 0, 1_000.0), Taken)
    assert isinstance(two.take([second], 0, 1_000.0), Taken)
    assert isinstance(two.take([second], 0, 1_000.0), Taken)
    assert isinstance(one.take([first], 0, 1_000.0), Refused)
    assert first.used(1_000.0) == second.used(1_000.0) == 3
    assert two.reset(second, 1_000.0)
    assert first.used(1_000.0) == 0


@pytest.fixture
def stopped(tmp_path):
    """A process that has the lock and does not go on."""
    holder = os.open(tmp_path / "limits", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(holder, fcntl.LOCK_EX)
    yield holder
    os.close(holder)


def test_a_worker_admits_what_fits_without_the_lock_while_the_holder_of_the_lock_is_stopped(tmp_path, stopped):
    fcntl.flock(stopped, fcntl.LOCK_UN)
    shared = SharedWindows(tmp_path / "limits")
    tokens = shared.attach(Limit(("caller", "ana"), TOKENS, ("minute", 60), 100))
    place = shared.attach(Limit(("caller", "ana"), CONCURRENT, ("", 0), 5))
    before = shared.take([tokens, place], 60, 1_000.0)
    assert isinstance(before, Taken)
    fcntl.flock(stopped, fcntl.LOCK_EX)
    began_s = time.monotonic()
    alone = [shared.take([tokens, place], 20, 1_000.0) for _ in range(20)]
    assert time.monotonic() - began_s < 1.0
    assert [isinstance(one, Taken) for one in alone] == [True, True] + [False] * 18  # 60 of 100 are in the record
    assert isinstance(alone[2], Refused)
    assert alone[2].limit is tokens
    assert isinstance(alone[0], Taken)
    for one, used in ((before, 10), (alone[0], 5)):
        shared.settle(one, used, 1_000.0)  # later
    assert (tokens.used(1_000.0), place.used(1_000.0)) == (60, 1)
    fcntl.flock(stopped, fcntl.LOCK_UN)
    shared._again_s = 0.0  # AGAIN_S later
    taken = shared.take([tokens, place], 65, 1_000.0)
    assert isinstance(taken, Taken)
    assert (tokens.used(1_000.0), place.used(1_000.0)) == (10 + 5 + 20 + 65, 2)
    for result in (taken, alone[1]):
        assert isinstance(result, Taken)
        shared.settle(result, None, 1_000.0)
    assert (tokens.used(1_000.0), place.used(1_000.0)) == (15, 0)


def test_the_requests_of_a_killed_worker_are_not_shown(tmp_path):
    windows = SharedWindows(tmp_path / "limits")
    place = windows.attach(Limit(("caller", "ana"), CONCURRENT, ("", 0), 5))
    windows.pid = 2**22 + 1  # above the largest pid of Linux
    windows.take([place], 0, 1_000.0)
    windows.pid = os.getpid()
    windows.take([place], 0, 1_000.0)
    assert place.used(1_000.0) == 1


def test_a_limit_that_is_first_used_while_the_lock_is_held_is_shared_later(tmp_path, stopped):
    one, two = SharedWindows(tmp_path / "limits"), SharedWindows(tmp_path / "limits")
    limits = [(shared, shared.attach(requests(4))) for shared in (one, two)]
    results = [shared.take([limit], 0, 1_000.0) for shared, limit in limits]
    fcntl.flock(stopped, fcntl.LOCK_UN)
    for shared, _ in limits:
        shared._again_s = 0.0  # AGAIN_S later
    results += [shared.take([limit], 0, 1_000.0) for _ in range(2) for shared, limit in limits]
    assert [isinstance(one, Taken) for one in results] == [True, True, True, True, False, False]


def test_records_beyond_the_room_of_the_file_are_counted_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_windows, "MOST_RECORDS", 2)
    one, two = SharedWindows(tmp_path / "limits"), SharedWindows(tmp_path / "limits")
    for owner, together in (("ana", 1), ("ben", 1), ("cleo", 0)):
        first, second = one.attach(requests(5, owner)), two.attach(requests(5, owner))
        one.take([first], 0, 1_000.0)
        assert (first.used(1_000.0), second.used(1_000.0)) == (1, together)


def test_the_file_uses_memory_only_for_records_that_exist(tmp_path):
    shared = SharedWindows(tmp_path / "limits")
    for number in range(40):
        shared.attach(requests(5, str(number)))
    assert (tmp_path / "limits").stat().st_blocks * 512 < 64 * 1024
