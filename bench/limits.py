"""The cost of limits of use for one request: `take` and `settle` of a limit on requests and of one on tokens.

Prints microseconds of CPU time.
"""

from __future__ import annotations

import sys
import time

from gatepass.clock import SystemClock
from gatepass.policy.windows import REQUESTS, TOKENS, Limit, Taken, Windows

MOST_US = 5.0
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


def main() -> int:
    own_us = fastest_us(Windows())
    print(f"{own_us:.1f} µs a request, at most {MOST_US:g}")
    return int(own_us > MOST_US)


if __name__ == "__main__":
    sys.exit(main())
