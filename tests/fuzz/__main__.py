"""`python -m tests.fuzz [--target NAME | --target all] [--seconds 600 | --runs N] [--seed N]`"""

import argparse
import resource
import sys
import time

from tests.fuzz import calls
from tests.fuzz.campaign import PromiseBroken, fuzz, replay_corpus
from tests.fuzz.targets import FAMILIES

MEMORY_BYTES = 2 << 30
"""Limit of the address space. An input that needs more breaks a promise."""

SHARES = {**{name: family.share for name, family in FAMILIES.items()}, calls.NAME: calls.SHARE}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers of untrusted bytes.")
    parser.add_argument("--target", choices=[*SHARES, "all"], default="stream", help="all: each one by its share")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--seconds", type=float, default=600.0)
    either.add_argument("--runs", type=int, help="number of runs instead of a duration; repeatable with a seed")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    names = list(SHARES) if options.target == "all" else [options.target]
    total = sum(SHARES[name] for name in names)
    print(f"seed {options.seed}", flush=True)
    for name in names:
        part = SHARES[name] / total
        is_timed = options.runs is None
        length = {"seconds": options.seconds * part} if is_timed else {"runs_at_most": int(options.runs * part)}
        try:
            if name == calls.NAME:
                calls.compare(options.seed, **length)
                continue
            replay_corpus(name)
            report = fuzz(name, options.seed, **length)
        except PromiseBroken as broken:
            print(f"{name}: broken: {broken}", file=sys.stderr)
            return 1
        print(f"{name}: {report}", flush=True)
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
