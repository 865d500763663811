"""`python -m tests.fuzz [--seconds 600 | --runs N] [--seed N]`"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from tests.fuzz.campaign import Broken, fuzz, replay


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz the judge and the shapers of streams."
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--seconds", type=float, default=600.0)
    either.add_argument("--runs", type=int, help="so many runs, however long they take: with a seed always the same")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    length = {"seconds": asked.seconds} if asked.runs is None else {"runs_at_most": asked.runs}
    print(f"seed {asked.seed}, {length}", flush=True)
    try:
        replay()
        report = fuzz(asked.seed, **length)
    except Broken as broken:
        print(f"broken: {broken}", file=sys.stderr)
        return 1
    print(report)
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
