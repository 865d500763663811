"""All checks of one configuration, in their order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from gatepass.config.checks import is_alone
from gatepass.config.model import Config
from gatepass.config.store import StoreSettings
from gatepass.doctor.credential import of_credential
from gatepass.doctor.finding import Check, Outcome, place
from gatepass.doctor.model_list import of_list
from gatepass.doctor.real_call import Trial, of_call, tries_at
from gatepass.gate import Gate, Hop, build_gate
from gatepass.runtime import Clock, SystemClock
from gatepass.store.choice import open_store
from gatepass.store.seam import StoreUnavailable


async def diagnose(
    config: Config, trial: Trial | None = None, clock: Clock | None = None
) -> AsyncGenerator[Check, None]:
    """All checks of one configuration, each as soon as it is known: the store, credentials, upstreams.

    An upstream whose credential failed is not tried, nor is a credential that ends by a try. Without a trial each
    upstream gets a GET /models; with one those of its route get its call, and no other upstream and no store are
    checked. Raises ModelNotFound where a trial leads nowhere.
    """
    clock = clock or SystemClock()
    gate = build_gate(config, clock, open_store(config.store, None, clock))
    without: dict[str | None, str] = {}
    try:
        hops = _concerned(gate, trial)
        credentials = _credentials(gate, hops, trial)
        if config.store is not None and trial is None:
            yield await _of_store(gate, config.store)
        _start(gate, credentials)
        for name in credentials:
            check = await of_credential(gate, name, gate.holders[name])
            if check.outcome is not Outcome.WORKS:
                without[name] = "failed" if check.outcome is Outcome.FAILS else "was not tried"
            yield check
        for hop in hops:
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


async def _of_store(gate: Gate, settings: StoreSettings) -> Check:
    """Whether the store answers one request. It proves nothing about an upstream."""
    try:
        await gate.store.get(("check",))
    except StoreUnavailable as error:
        reason = gate.redactor.mask(str(error))
        advice = "Check store.url, store.username and store.password; until then each process fetches tokens by itself"
        return Check("store", Outcome.FAILS, f"no answer from {settings.host}:{settings.port}: {reason}. {advice}")
    return Check("store", Outcome.WORKS, f"{settings.host}:{settings.port} answers", proves=False)


def _concerned(gate: Gate, trial: Trial | None) -> list[Hop]:
    """The upstreams to try: a trial says nothing of those that its model never comes to."""
    if trial is None:
        return [*gate.hops.values()]
    route = {target.upstream for target in gate.routes.resolve(trial.operation, trial.model)}
    return [hop for name, hop in gate.hops.items() if name in route]


def _credentials(gate: Gate, hops: Sequence[Hop], trial: Trial | None) -> list[str]:
    """Those of `hops`; without a trial those too that no upstream names."""
    used = {hop.settings.credential for hop in hops}
    return [name for name in gate.holders if trial is None or name in used]


def _start(gate: Gate, credentials: Sequence[str]) -> None:
    """As the gate does it itself, but for holders whose first fetch would cost somebody else his login."""
    gate.snapshot.start()
    for name in credentials:
        if not is_alone(gate.config, name):
            gate.holders[name].start()
