"""Fuzz a family for a duration: mutate the inputs of the corpus, guided by the branches that they reach."""

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
from tests.fuzz.targets import FAMILIES, Target

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(__file__).parent / "found"
TRACED_ONE_IN = 10
MAX_CPU_S = 20.0
"""Limit of one run. A usual run takes a millisecond."""

Edge = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a campaign. `kept`: the number of inputs that reached a new branch."""

    runs: int
    seconds: float
    kept: int
    edges: int

    def __str__(self) -> str:
        return (
            f"{self.runs} runs in {self.seconds:.0f} s ({self.runs / max(self.seconds, 0.001):.0f} a second),"
            f" {self.edges} branches reached, {self.kept} inputs kept, no promise broken"
        )


class PromiseBroken(Exception):
    """A promise is violated. The text contains the seed and the file of the input."""


def corpus(name: str) -> list[bytes]:
    """Return the inputs of a family in the corpus."""
    return [path.read_bytes() for path in paths(name)]


def paths(name: str) -> list[Path]:
    """Return the files of a family in the corpus."""
    return sorted((CORPUS / name).iterdir())


def replay(name: str, body: bytes) -> None:
    """Run one input through each target of a family."""
    for target, _ in FAMILIES[name].targets:
        _run(target, body, seed=1)


def replay_corpus(name: str) -> None:
    for body in corpus(name):
        replay(name, body)


def fuzz(name: str, seed: int, *, seconds: float = math.inf, runs_at_most: float = math.inf) -> Report:
    """Run a family for `seconds` or `runs_at_most`; raise PromiseBroken for the first input that breaks a promise."""
    family, random, inputs = FAMILIES[name], Random(seed), corpus(name)
    reached: set[Edge] = set()
    for body in inputs:
        for target, _ in family.targets:
            with _traced(reached, family.traced):
                _run(target, body, seed)
    targets, shares = zip(*family.targets, strict=True)
    began_s, runs, size = time.monotonic(), 0, len(inputs)
    while runs < runs_at_most and time.monotonic() - began_s < seconds:
        runs += 1
        body = mutated(inputs, random)
        [target] = random.choices(targets, shares)
        if runs % TRACED_ONE_IN:
            _run(target, body, seed=runs)
            continue
        before = len(reached)
        with _traced(reached, family.traced):
            _run(target, body, seed=runs)
        if len(reached) > before:
            inputs.append(body)
    return Report(runs, time.monotonic() - began_s, len(inputs) - size, len(reached))


def _run(target: Target, body: bytes, seed: int) -> None:
    began_s = time.process_time()
    try:
        target(body, Random(seed))
        took_s = time.process_time() - began_s
        assert took_s < MAX_CPU_S, f"took {took_s:.1f} s of CPU"
    except Exception as error:  # every exception of a target is a broken promise
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{target.__name__}-{seed}"
        path.write_bytes(body)
        raise PromiseBroken(f"{target.__name__}, seed {seed}, input {path}: {error!r}") from error


@contextmanager
def _traced(reached: set[Edge], part: str) -> Iterator[None]:
    """Record each step from line to line in `part` of the source."""
    last: Counter[str] = Counter()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            name = frame.f_code.co_filename
            reached.add((name, last[name], frame.f_lineno))
            last[name] = frame.f_lineno
        return local

    def enter(frame: FrameType, _event: str, _: Any) -> Any:
        return local if part in frame.f_code.co_filename else None

    outer = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(outer)
