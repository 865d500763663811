"""Build the token source that a credential configures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gatepass.clock import Clock
from gatepass.config.credential import kinds
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.http_client.tls import TLSContexts
from gatepass.tokens.failure import FailureKind, FetchFailure
from gatepass.tokens.holder import TokenSource
from gatepass.tokens.lifetime import LifetimeSource, Token, TokenKind
from gatepass.tokens.secrets import revealed
from gatepass.tokens.token_reply import fits_a_header, strip_bearer
from gatepass.types import Secret

if TYPE_CHECKING:
    from gatepass.tokens.token_endpoint import Connect


def transport_of(settings: kinds.AnyCredential, tls_contexts: TLSContexts) -> Connect | None:
    """Return the HTTP transport of a credential, None for a LocalCredential; raise OSError for an unusable TLS file."""
    if isinstance(settings, kinds.LocalCredential):
        return None
    # imported here, because the import of httpx2 takes 0.1 s
    from gatepass.tokens.token_endpoint import issuer_transport

    return issuer_transport(settings, tls_contexts.context_for(settings.network))


def build_source(name: str, settings: kinds.AnyCredential, connect: Connect | None, clock: Clock) -> TokenSource:
    """Return the token source of `credentials.NAME`. `connect` is the result of `transport_of`.

    Only the configured source is imported.
    """
    match settings:
        case kinds.StaticCredential():
            return StaticSource(settings.token, "token", clock)
        case kinds.ApiKeyCredential():
            return StaticSource(settings.key, "key", clock)
        case kinds.ExecCredential():
            from gatepass.tokens.sources.exec import ExecSource

            return ExecSource(name, settings, clock)
        case kinds.FileCredential():
            from gatepass.tokens.sources.file import FileSource

            return FileSource(name, settings, clock)
    if connect is None:
        raise ValueError(f"a credential of type {settings.type} needs an HTTP transport")
    match settings:
        case Oauth2Credential():
            from gatepass.tokens.sources.oauth2 import Oauth2Source

            return Oauth2Source(name, settings, connect, clock)
        case HttpJsonCredential():
            from gatepass.tokens.sources.http_json import HttpJsonSource

            return HttpJsonSource(name, settings, connect, clock)


class StaticSource(msgspec.Struct, frozen=True):
    """A configured key. `setting` is its name in the configuration."""

    key: Secret
    setting: str
    clock: Clock

    def secrets(self) -> tuple[Secret, ...]:
        return (self.key,)

    async def fetch(self) -> Token:
        """Return the key; raise FetchFailure if a header cannot hold it."""
        # The file of the key may have changed since the start.
        text = strip_bearer(revealed(self.key, self.setting))
        if not fits_a_header(text):
            reason = f"{self.setting} contains a space, a line break or a non-ASCII character"
            raise FetchFailure(reason, FailureKind.REFUSED)
        return Token(Secret(text), self.clock.now(), None, TokenKind.KEY, LifetimeSource.NONE)
