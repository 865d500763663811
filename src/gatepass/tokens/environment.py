"""A key or token in an environment variable."""

from __future__ import annotations

from gatepass.call import Secret
from gatepass.config.credential.env import EnvCredential
from gatepass.runtime import Clock
from gatepass.tokens.held import Moments, read_key
from gatepass.tokens.life import Token


class EnvSource:
    def __init__(self, name: str, settings: EnvCredential, clock: Clock) -> None:
        self._name = name
        self._variable = settings.variable
        self._clock = clock

    def __repr__(self) -> str:
        return f"EnvSource({self._name})"

    def secrets(self) -> tuple[Secret, ...]:
        return (self._variable,)

    async def fetch(self) -> Token:
        """The value; raises FetchFailure where no header could hold it, or it is a JWT that has expired."""
        issuer = f"the environment variable {self._variable.name}"
        minted = read_key(self._variable.reveal(), issuer, Moments(self._clock.wall()))
        return Token(Secret(minted.text), self._clock.now(), minted.life_s, minted.kind, minted.told_by)
