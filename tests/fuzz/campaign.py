"""A run of so many seconds over the kept corpus: mutated inputs, guided by the branches that they reach."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target, soaked

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(__file__).parent / "found"
TRACED_ONE_IN = 10
SOAKED_ONE_IN = 1000

Edge = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Report:
    """`kept` is how many inputs joined the corpus of this run for a branch that none had reached."""

    runs: int
    seconds: float
    kept: int
    edges: int

    def __str__(self) -> str:
        return (
            f"{self.runs} runs in {self.seconds:.0f} s ({self.runs / max(self.seconds, 0.001):.0f} a second),"
            f" {self.edges} branches reached, {self.kept} inputs kept, no promise broken"
        )


class Broken(Exception):
    """A promise broke; the input and the seed are in the file that is named."""


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def replay() -> None:
    """Every kept input through every target."""
    for path in sorted(CORPUS.iterdir()):
        for target, _ in TARGETS:
            _run(target, path.read_bytes(), seed=1)


def fuzz(seed: int, *, seconds: float = math.inf, runs_at_most: float = math.inf) -> Report:
    """Run for so long, or so often; raises Broken with the first input that breaks a promise."""
    random, inputs = Random(seed), corpus()
    reached: set[Edge] = set()
    for body in inputs:
        for target, share in TARGETS:
            if share:
                with _traced(reached):
                    _run(target, body, seed)
    targets, shares = zip(*TARGETS, strict=True)
    began_s, runs, size = time.monotonic(), 0, len(inputs)
    while runs < runs_at_most and time.monotonic() - began_s < seconds:
        runs += 1
        body = mutated(inputs, random)
        [target] = random.choices(targets, shares) if runs % SOAKED_ONE_IN else [soaked]
        if runs % TRACED_ONE_IN or target is soaked:
            _run(target, body, seed=runs)
            continue
        before = len(reached)
        with _traced(reached):
            _run(target, body, seed=runs)
        if len(reached) > before:
            inputs.append(body)
    return Report(runs, time.monotonic() - began_s, len(inputs) - size, len(reached))


def _run(target: Target, body: bytes, seed: int) -> None:
    try:
        target(body, Random(seed))
    except Exception as error:  # whatever comes out of a target is a broken promise
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{target.__name__}-{seed}"
        path.write_bytes(body)
        raise Broken(f"{target.__name__}, seed {seed}, input {path}: {error!r}") from error


@contextmanager
def _traced(reached: set[Edge]) -> Iterator[None]:
    """Note each step from line to line in the relay."""
    last: Counter[str] = Counter()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            name = frame.f_code.co_filename
            reached.add((name, last[name], frame.f_lineno))
            last[name] = frame.f_lineno
        return local

    def enter(frame: FrameType, _event: str, _: Any) -> Any:
        return local if "gatepass/relay" in frame.f_code.co_filename else None

    outer = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(outer)
