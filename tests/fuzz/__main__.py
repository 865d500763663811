"""`python -m tests.fuzz [--target NAME | --target all] [--seconds 600 | --runs N] [--seed N]`"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from tests.fuzz.campaign import Broken, fuzz, replay
from tests.fuzz.targets import FAMILIES

MOST_BYTES = 2 << 30
"""Of the address space: an input that takes more breaks a promise."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads bytes of others.")
    parser.add_argument("--target", choices=[*FAMILIES, "all"], default="stream", help="all: each with its share")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--seconds", type=float, default=600.0)
    either.add_argument("--runs", type=int, help="so many runs, however long they take: with a seed always the same")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    names = list(FAMILIES) if asked.target == "all" else [asked.target]
    total = sum(FAMILIES[name].share for name in names)
    print(f"seed {asked.seed}", flush=True)
    for name in names:
        part = FAMILIES[name].share / total
        length = {"seconds": asked.seconds * part} if asked.runs is None else {"runs_at_most": int(asked.runs * part)}
        try:
            replay(name)
            report = fuzz(name, asked.seed, **length)
        except Broken as broken:
            print(f"{name}: broken: {broken}", file=sys.stderr)
            return 1
        print(f"{name}: {report}", flush=True)
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
