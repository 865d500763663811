"""What is asked of one hop for a check, bounded: somebody sits in front of it."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from gatepass.errors import UpstreamTimeout
from gatepass.gate import Gate, Hop
from gatepass.runtime import Clock, timeout

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
