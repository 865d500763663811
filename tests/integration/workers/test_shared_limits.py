"""What workers count together: kills inside the lock, a holder that is stopped, and a file that is full."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatepass.policy import shared_windows
from gatepass.policy.shared_windows import SharedWindows
from gatepass.policy.windows import CONCURRENT, REQUESTS, TOKENS, Limit, Refused, Taken

KILLS = 300


def requests(most: int, owner: str = "ana") -> Limit:
    return Limit(("caller", owner), REQUESTS, ("minute", 60), most)


def test_kills_inside_the_lock_leave_it_free_and_the_totals_right(tmp_path):
    script = Path(__file__).parent / "kills_in_lock.py"
    command = [sys.executable, str(script), str(tmp_path), str(KILLS)]
    killed, longest_ms, *wrong = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300
    ).stdout.split("\n")
    assert [one for one in wrong if one] == []
    assert int(killed) == KILLS
    assert float(longest_ms) < 1_000


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
