"""One question to one hop, bounded, and its answer judged: by the street's own pieces."""

from __future__ import annotations

from dataclasses import dataclass

from gatepass.attempt import send
from gatepass.call import Call, Target
from gatepass.config.profiles import PLAIN, Profile
from gatepass.errors import UpstreamTimeout
from gatepass.gate import Gate, Hop
from gatepass.observe.exchange import Exchange
from gatepass.runtime import Clock, timeout
from gatepass.verdict import judge


@dataclass(frozen=True, slots=True)
class Bound:
    """How long all calls of one check may take together."""

    began_s: float
    bound_s: float

    def used_s(self, clock: Clock) -> float:
        return clock.now() - self.began_s


async def asked(
    gate: Gate, hop: Hop, call: Call, sent: Call, target: Target, bound: Bound, profile: Profile = PLAIN
) -> int:
    """The status of a good answer to `call`, which is sent as `sent`; raises the error that it really is."""
    said = f"{hop.host} gave no whole answer within {bound.bound_s:g} s, the bound of this check."
    late = UpstreamTimeout(said, upstream=hop.name, phase="total")
    left_s = bound.bound_s - bound.used_s(gate.clock)
    return await timeout(gate.clock, left_s, _judged(gate, hop, call, sent, target, profile), late)


async def _judged(gate: Gate, hop: Hop, call: Call, sent: Call, target: Target, profile: Profile) -> int:
    exchange = Exchange.silent()
    timeouts = target.timeouts or hop.timeouts
    response = await send(gate, hop, hop.dialect.encode(sent, target, hop.settings.base_url, timeouts), exchange)
    await judge(gate, call, hop, response, exchange, profile)
    return response.status
