"""What is asked of one hop for a check, bounded, and what was found there."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from gatepass.errors import UpstreamTimeout
from gatepass.gate import Gate, Hop
from gatepass.runtime import Clock, timeout

PROVE = "add --model M, with a model that goes there"


class Outcome(StrEnum):
    """As it is printed. UNPROVEN is no failure: the hop answers, and whether it works was not to be seen."""

    WORKS = "ok"
    FAILS = "FAIL"
    UNPROVEN = "????"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: which hop, whether it works, and what to do where it does not.

    `proves`: that it works was seen, where it does; a key that stands in the configuration works until it is shown.
    """

    hop: str
    outcome: Outcome
    finding: str
    proves: bool = True


def place(hop: Hop) -> str:
    return f"upstream:{hop.name}"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bound:
    """How long all that one check asks may take together."""

    began_s: float
    bound_s: float

    def used_s(self, clock: Clock) -> float:
        return clock.now() - self.began_s


async def within(bound: Bound, gate: Gate, hop: Hop, answer: Awaitable[T]) -> T:
    """`answer`; raises UpstreamTimeout where it does not come in what is left of `bound`, whatever `hop` allows."""
    said = f"{hop.host} gave no whole answer within {bound.bound_s:g} s, the bound of this check."
    late = UpstreamTimeout(said, upstream=hop.name, phase="total")
    return await timeout(gate.clock, bound.bound_s - bound.used_s(gate.clock), answer, late)
