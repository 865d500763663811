"""`gatepass check --live`: mints each token, sends one tiny call per upstream, and names the hop that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from gatepass.attempt import refused, send, whole
from gatepass.catalog import LIST_BYTES, model_list_request
from gatepass.config.model import Config
from gatepass.errors import GatepassError, TokenUnavailable
from gatepass.gate import Gate, Hop, build_gate
from gatepass.observe.exchange import Exchange
from gatepass.tokens.holder import TokenHolder

GOOD = 200
UNKNOWN_PATH = (404, 405)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: which hop, whether it works, and what to do where it does not."""

    hop: str
    ok: bool
    finding: str


async def diagnose(config: Config) -> list[Check]:
    """All checks of one configuration, credentials first: an upstream is judged with its token at hand."""
    gate = build_gate(config)
    gate.start()
    try:
        return [check async for check in _checks(gate)]
    finally:
        await gate.aclose()


async def _checks(gate: Gate) -> AsyncIterator[Check]:
    for name, holder in gate.holders.items():
        yield await _credential(name, holder)
    for hop in gate.hops.values():
        yield await _upstream(gate, hop)


async def _credential(name: str, holder: TokenHolder) -> Check:
    try:
        token = await holder.token()
    except TokenUnavailable as error:
        return Check(error.hop, False, error.message)
    life = "does not expire" if token.life_s is None else f"lives {token.life_s:g} s"
    return Check(f"credential:{name}", True, f"a token was minted; it {life}")


async def _upstream(gate: Gate, hop: Hop) -> Check:
    """GET {base_url}/models: nothing is generated, nothing is billed; a 404 still proves the way and the token."""
    where = f"upstream:{hop.name}"
    exchange = Exchange.silent()
    try:
        response = await send(gate, hop, model_list_request(hop), exchange)
        if (error := hop.dialect.judge_head(hop.name, response.status, response.headers, host=hop.host)) is not None:
            await response.aclose()
            return Check(error.hop, False, error.message)
        if response.status in UNKNOWN_PATH:
            await response.aclose()
            return Check(where, True, "answers; it has no model list, so whether it takes the token was not tried")
        if response.status != GOOD:
            refusal = await refused(gate, hop, response)
            return Check(refusal.hop, False, f"HTTP {response.status}: {refusal.message}")
        await whole(hop, response, LIST_BYTES)
    except GatepassError as error:
        return Check(error.hop, False, error.message)
    return Check(where, True, "answers, and took the token")
