"""Whether a credential has a token."""

from __future__ import annotations

from gatepass.config.checks import ALONE, is_alone
from gatepass.config.credential.kinds import AnyCredential, place_of
from gatepass.doctor.finding import Check, Outcome
from gatepass.errors import TokenUnavailable
from gatepass.gate import Gate
from gatepass.runtime import timeout
from gatepass.tokens import Token, TokenHolder
from gatepass.tokens.failure import setting
from gatepass.tokens.life import ToldBy

TOKEN_S = 10.0
"""The bound of it, whatever its own timeout allows: somebody sits in front of this."""


async def of_credential(gate: Gate, name: str, holder: TokenHolder) -> Check:
    if is_alone(gate.config, name):
        return Check(f"credential:{name}", Outcome.SKIPPED, ALONE)
    late = TokenUnavailable(_late(gate.config.credentials[name], name), credential=name)
    try:
        token = await timeout(gate.clock, TOKEN_S, holder.token(), late)
    except TokenUnavailable as error:
        reason = holder.status().last_error if error is late else None
        return Check(error.hop, Outcome.FAILS, f"{error.message}{f': {reason}' if reason else ''}")
    return Check(f"credential:{name}", Outcome.WORKS, _life(token), proves=token.life_s is not None)


def _late(settings: AnyCredential, name: str) -> str:
    own = f"{setting(name, 'timeout_s')} is {settings.timeout_s:g} s"
    return f"no token from {place_of(settings)} within {TOKEN_S:g} s, the bound of this check ({own})"


def _life(token: Token) -> str:
    if token.life_s is None:
        return "a key is configured; it does not expire"
    if token.told_by is ToldBy.DEFAULT:
        return f"a token was minted; nothing tells its life, so default_ttl_s counts: {token.life_s:g} s"
    return f"a token was minted; it lives {token.life_s:g} s"
