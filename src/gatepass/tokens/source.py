"""What mints a token: the seam, and the one switch over its kinds."""

from __future__ import annotations

from typing import Protocol, assert_never

from gatepass.call import Secret
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.static import StaticCredential
from gatepass.runtime import Clock
from gatepass.tokens.http_json import HttpJsonSource
from gatepass.tokens.life import Token
from gatepass.tokens.oauth2 import Oauth2Source
from gatepass.tokens.static import StaticSource
from gatepass.transport.seam import Transport


class TokenSource(Protocol):
    """Mints tokens; keeps none."""

    async def fetch(self) -> Token:
        """A token of this moment, within the source's own time limit; raises FetchFailure."""
        ...

    def secrets(self) -> tuple[Secret, ...]:
        """What it signs in with, so that it can be masked. A value that changed is worth a new try."""
        ...


def build_source(name: str, settings: AnyCredential, transport: Transport, clock: Clock) -> TokenSource:
    """The source that `credentials.NAME` describes. The transport stays its owner's to close."""
    match settings:
        case Oauth2Credential():
            return Oauth2Source(name, settings, transport, clock)
        case HttpJsonCredential():
            return HttpJsonSource(name, settings, transport, clock)
        case StaticCredential():
            return StaticSource(name, settings, clock)
        case _:  # pragma: no cover - mypy sees that nothing is left
            assert_never(settings)
