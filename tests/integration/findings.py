"""Findings of the doctor."""

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from gatepass.cli.probe import ProbeCall
from gatepass.cli.steps import diagnose
from gatepass.clock import Clock
from gatepass.config.model import Config
from gatepass.documents import Step, StepOutcome


@dataclass(frozen=True, slots=True)
class Check:
    """A step: its reason and its advice in one text."""

    hop: str
    outcome: StepOutcome
    finding: str
    proves: bool = True


def check_of(step: Step) -> Check:
    return Check(step.hop, step.outcome, f"{step.why} {step.advice}".strip(), step.proves)


async def found(blocks: dict[str, Any], trial: ProbeCall | None = None, clock: Clock | None = None) -> list[Check]:
    """The checks of the store, the credentials and the upstreams; with `trial` its calls in place of the lists."""
    trials = [] if trial is None else [trial]
    async with aclosing(diagnose(Config.model_validate(blocks), trials, clock)) as steps:
        known = [step async for step in steps]
    assert [step for step in known if not step.why_zh or bool(step.advice) > bool(step.advice_zh)] == []
    return [check_of(step) for step in known if trial is None or step.what != "models"]


async def found_upstreams(blocks: dict[str, Any], trial: ProbeCall | None = None) -> list[Check]:
    return [check for check in await found(blocks, trial) if check.hop.startswith("upstream:")]
