"""Kill processes inside the lock of SharedWindows, each at another line: `python kills_in_lock.py FOLDER KILLS`.

Prints how many were killed inside, how long the longest wait for the lock took afterwards, and what is wrong.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from gatepass.policy import shared_windows, windows
from gatepass.policy.shared_windows import SharedWindows
from gatepass.policy.windows import CONCURRENT, REQUESTS, TOKENS, Limit, Taken

FILES = (windows.__file__, shared_windows.__file__)
SPAN, NO_SPAN = ("second", 1), ("", 0)


def limits_of(shared: SharedWindows) -> list[Limit]:
    spans = ((REQUESTS, SPAN), (TOKENS, SPAN), (CONCURRENT, NO_SPAN))
    return [shared.attach(Limit(("caller", "ana"), unit, span, 10**6)) for unit, span in spans]


class Watched(SharedWindows):
    """Knows whether it has the lock."""

    has_lock = False

    def _lock(self) -> bool:
        self.has_lock = super()._lock()
        return self.has_lock

    def _unlock(self) -> None:
        super()._unlock()
        self.has_lock = False


def work(file: Path, lines: int, now_s: float) -> None:
    """Take and settle until this process is killed, at the line number `lines` inside the lock."""
    shared = Watched(file)
    limits, left = limits_of(shared), lines

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line" and shared.has_lock:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    while True:
        taken = shared.take(limits, 10, now_s)
        if isinstance(taken, Taken):
            shared.settle(taken, 30, now_s + 0.01)


def main(folder: str, kills: int) -> None:
    chance, file = random.Random(1795182408), Path(folder) / "limits"
    own = SharedWindows(file)
    limits, killed, wrong, longest_s = limits_of(own), 0, list[str](), 0.0
    for number in range(kills):
        now_s = 1_000.0 + number / 200
        child = os.fork()
        if not child:
            work(file, chance.randrange(1, 200), now_s)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        began_s = time.monotonic()
        taken = own.take(limits, 1, now_s)
        longest_s = max(longest_s, time.monotonic() - began_s)
        if not isinstance(taken, Taken) or taken.found[0][0] is not limits[0]:
            wrong.append(f"{number}: the lock is not free")
            continue
        own.settle(taken, 1, now_s)
        for limit in limits:
            limit.drop_dead(windows.process_exists)
            if limit.words[2] != limit.used(now_s) or limit.words[3]:
                wrong.append(f"{number}: {limit.name} has the total {limit.words[2]}, not {limit.used(now_s)}")
        if limits[2].used(now_s):
            wrong.append(f"{number}: a place is lost")
    print(killed, round(longest_s * 1000, 1), *wrong[:5], sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
