"""A key or token of the configuration: a value, a file's content or an environment variable."""

from __future__ import annotations

from gatepass.call import Secret
from gatepass.config.credential.kinds import EnvCredential
from gatepass.runtime import Clock
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.life import Kind, Token, ToldBy
from gatepass.tokens.reading import Moments, bare, read_key
from gatepass.tokens.secret import revealed


class StaticSource:
    """`setting` is what the key is called in the configuration: `token` of static, `key` of api_key."""

    def __init__(self, name: str, key: Secret, setting: str, clock: Clock) -> None:
        self._name = name
        self._key = key
        self._setting = setting
        self._clock = clock

    def __repr__(self) -> str:
        return f"StaticSource({self._name})"

    def secrets(self) -> tuple[Secret, ...]:
        return (self._key,)

    async def fetch(self) -> Token:
        """The key as it stands now; raises FetchFailure where it could not be a header's value.

        Keys are no OAuth tokens: any visible ASCII goes (`1|abc` is a key).
        """
        text = bare(revealed(self._key, self._setting))
        if not text or any(not "!" <= c <= "~" for c in text):
            raise FetchFailure(
                f"{self._setting} holds a space, a line break or a character beyond ASCII", definite=True
            )
        return Token(Secret(text), self._clock.now(), None, Kind.KEY, ToldBy.NOBODY)


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
        return minted.token(self._clock.now())
