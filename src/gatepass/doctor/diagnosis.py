"""All checks of one configuration, in their order."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from gatepass.config.keeping import is_alone
from gatepass.config.model import Config
from gatepass.doctor.credential import of_credential
from gatepass.doctor.finding import Check, Outcome, place
from gatepass.doctor.model_list import of_list
from gatepass.doctor.real_call import Trial, of_call, tries_at
from gatepass.gate import Gate, build_gate
from gatepass.runtime import Clock, SystemClock
from gatepass.store.choice import open_store


async def diagnose(
    config: Config, trial: Trial | None = None, clock: Clock | None = None
) -> AsyncGenerator[Check, None]:
    """All checks of one configuration, each as soon as it is known, credentials first.

    An upstream whose credential failed is not tried, nor is a credential that ends by a try. The upstreams of a
    trial's route get its call, the others a GET /models. Raises ModelNotFound where a trial leads nowhere.
    """
    clock = clock or SystemClock()
    gate = build_gate(config, clock, open_store(config.store, None, clock))
    _start(gate)
    without: dict[str | None, str] = {}
    try:
        for name, holder in gate.holders.items():
            check = await of_credential(gate, name, holder)
            if check.outcome is not Outcome.WORKS:
                without[name] = "failed" if check.outcome is Outcome.FAILS else "was not tried"
            yield check
        for hop in gate.hops.values():
            if (end := without.get(hop.settings.credential)) is not None:
                yield Check(place(hop), Outcome.SKIPPED, f"its credential {end}")
                continue
            tries = tries_at(gate, hop, trial)
            for trying in tries:
                yield await of_call(gate, hop, trying)
            if not tries:
                yield await of_list(gate, hop)
    finally:
        await gate.aclose()


def _start(gate: Gate) -> None:
    """As the gate does it itself, but for holders whose first fetch would cost somebody else his login."""
    gate.snapshot.start()
    gate.lessons.start()
    for name, holder in gate.holders.items():
        if not is_alone(gate.config, name):
            holder.start()
