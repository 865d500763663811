"""What was found at one hop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gatepass.gate import Hop

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
