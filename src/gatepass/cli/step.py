"""The result of one step of `gatepass doctor`, and what its callers share."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum


class StepOutcome(StrEnum):
    """The printed result of a step. UNPROVEN: the hop answers, but the step cannot prove that it works."""

    WORKS = "ok"
    FAILS = "FAIL"
    UNPROVEN = "????"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one test at one hop, with its reason and the advice for the operator.

    - `what`: configuration, store, token, models, call, stream, initialize or tools.
    - `advice`: empty if no action is necessary, or if `why` contains it.
    - `proves`: whether WORKS proves that the hop works. A configured key that was not sent anywhere proves nothing.
    - `action`: the error's action in `advice`, with its code and names, from which the page words it in Chinese.
    - `error`: the code of an error.
    - `model`: what a call named, for the page.
    """

    hop: str
    what: str
    outcome: StepOutcome
    why: str
    advice: str = ""
    seconds: float = field(default=0.0, compare=False)
    proves: bool = True
    action: Mapping[str, object] | None = None
    error: str = ""
    model: str = field(default="", compare=False)

    @property
    def failed(self) -> bool:
        return self.outcome is StepOutcome.FAILS

    def described(self) -> dict[str, object]:
        """Return the fields as JSON has them."""
        fields = asdict(self) | {"outcome": self.outcome.name.lower(), "seconds": round(self.seconds, 3)}
        hidden = ("proves", "action", "error", "model")
        return {name: value for name, value in fields.items() if name not in hidden}


Steps = AsyncGenerator[Step, None]


async def timed(steps: Steps) -> Steps:
    async with aclosing(steps):
        began_s = time.monotonic()
        async for step in steps:
            yield replace(step, seconds=time.monotonic() - began_s)
            began_s = time.monotonic()


Begin = Callable[[str, str], object]
"""Called with the hop and the name of a step before it runs, to show progress."""
