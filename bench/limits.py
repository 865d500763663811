"""The cost of limits of use for one request: `take` and `settle` of a limit on requests and of one on tokens.

Prints microseconds of CPU time.
"""

from __future__ import annotations

import sys
import time

from gatepass.clock import SystemClock
from gatepass.policy.limits import CONCURRENT, REQUESTS, TOKENS, Counts, Limit, Taken

MOST_US = 5.0
REQUESTS_OF_ROUND, ROUNDS = 20_000, 9


def fastest_us(counts: Counts) -> float:
    limits = [counts.attach(Limit(("caller", "a"), unit, "minute", 10**9)) for unit in (REQUESTS, TOKENS)]
    now, runs = SystemClock().now, []
    estimate, used = ({REQUESTS: 1, TOKENS: tokens, CONCURRENT: 1} for tokens in (1_000, 400))
    for _ in range(ROUNDS):
        began_ns = time.process_time_ns()
        for _ in range(REQUESTS_OF_ROUND):
            taken = counts.take(limits, estimate, now())
            if isinstance(taken, Taken):
                counts.settle(taken, used, now())
        runs.append((time.process_time_ns() - began_ns) / 1_000)
    return min(runs) / REQUESTS_OF_ROUND


def main() -> int:
    own_us = fastest_us(Counts())
    print(f"{own_us:.1f} µs a request, at most {MOST_US:g}")
    return int(own_us > MOST_US)


if __name__ == "__main__":
    sys.exit(main())
