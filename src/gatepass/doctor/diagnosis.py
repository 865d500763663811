"""All checks of one configuration, in their order."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from gatepass.config.checks import ALONE, is_alone
from gatepass.config.credential.kinds import place_of
from gatepass.config.model import Config
from gatepass.config.store import StoreSettings
from gatepass.doctor.finding import Check, Outcome, place
from gatepass.doctor.model_list import of_list
from gatepass.doctor.real_call import Trial, of_call, tries_at
from gatepass.errors import TokenUnavailable
from gatepass.gate import Gate, Hop, build_gate
from gatepass.runtime import Clock, SystemClock, timeout
from gatepass.store.choice import open_store
from gatepass.store.seam import StoreUnavailable
from gatepass.tokens import TokenHolder
from gatepass.tokens.failure import setting
from gatepass.tokens.life import ToldBy

TOKEN_S = 10.0
"""The bound of it, whatever its own timeout allows: somebody sits in front of this."""


async def of_credential(gate: Gate, name: str, holder: TokenHolder) -> Check:
    if is_alone(gate.config, name):
        return Check(f"credential:{name}", Outcome.SKIPPED, ALONE)
    settings = gate.config.credentials[name]
    own = f"{setting(name, 'timeout_s')} is {settings.timeout_s:g} s"
    said = f"no token from {place_of(settings)} within {TOKEN_S:g} s, the bound of this check ({own})"
    late = TokenUnavailable(said, credential=name)
    try:
        token = await timeout(gate.clock, TOKEN_S, holder.token(), late)
    except TokenUnavailable as error:
        # this command ends now: what the error says of the next try is for a gatepass that runs
        reason = holder.status().last_error
        failed = error.message if error is late or reason is None else f"no token for credential {name}"
        return Check(error.hop, Outcome.FAILS, f"{failed}: {reason}" if reason else failed)
    if token.life_s is None:
        found = "a key is configured; it does not expire"
    elif token.told_by is ToldBy.DEFAULT:
        found = f"a token was minted; nothing tells its life, so default_ttl_s counts: {token.life_s:g} s"
    else:
        found = f"a token was minted; it lives {token.life_s:g} s"
    return Check(f"credential:{name}", Outcome.WORKS, found, proves=token.life_s is not None)


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
        used = {hop.settings.credential for hop in hops}
        credentials = [name for name in gate.holders if trial is None or name in used]
        if config.store is not None and trial is None:
            yield await _of_store(gate, config.store)
        gate.snapshot.start()
        for name in credentials:
            if not is_alone(config, name):  # a fetch of it would cost the running gatepass its login
                gate.holders[name].start()
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
