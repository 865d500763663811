"""The cost of limits of use for one request: `take` and `settle` of a limit on requests and of one on tokens.

Prints microseconds of CPU time in one process, and of one of two workers that count together at the same time.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from gatepass.clock import SystemClock
from gatepass.policy.shared_windows import SharedWindows
from gatepass.policy.windows import REQUESTS, TOKENS, Limit, Taken, Windows

MOST_US, MOST_OF_WORKERS_US = 5.0, 15.0
REQUESTS_OF_ROUND, ROUNDS = 20_000, 9


def fastest_us(windows: Windows) -> float:
    limits = [windows.attach(Limit(("caller", "a"), unit, ("minute", 60), 10**9)) for unit in (REQUESTS, TOKENS)]
    now, runs = SystemClock().now, []
    for _ in range(ROUNDS):
        began_ns = time.process_time_ns()
        for _ in range(REQUESTS_OF_ROUND):
            taken = windows.take(limits, 1_000, now())
            if isinstance(taken, Taken):
                windows.settle(taken, 400, now())
        runs.append((time.process_time_ns() - began_ns) / 1_000)
    return min(runs) / REQUESTS_OF_ROUND


def of_worker(file: Path) -> float:
    return fastest_us(SharedWindows(file))


def main() -> int:
    own_us = fastest_us(Windows())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, multiprocessing.get_context("spawn").Pool(2) as pool:
        both_us = max(pool.map(of_worker, [Path(folder) / "limits"] * 2, chunksize=1))
    print(f"{own_us:.1f} µs a request in one process, at most {MOST_US:g}")
    print(f"{both_us:.1f} µs a request in each of two workers, at most {MOST_OF_WORKERS_US:g}")
    return int(own_us > MOST_US or both_us > MOST_OF_WORKERS_US)


if __name__ == "__main__":
    sys.exit(main())
