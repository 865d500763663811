"""A scripted issuer: its good answer, and the configuration of one upstream that is called with its tokens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.integration.gateway import Gateway, gateway
from tests.integration.scripted import Dialogue, Scripted, Send, reply

SECRET = "portal-secret-4711"


def minted(text: str = "good-token-1", life_s: float = 300) -> Dialogue:
    return [Send(reply({"access_token": text, "expires_in": life_s, "token_type": "Bearer"}))]


def corp(issuer: Scripted, upstream: Scripted, **more: Any) -> dict[str, Any]:
    """One credential, one upstream; `more` are settings of the credential."""
    login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET, **more}
    chat = {"base_url": f"{upstream.url}/v1", "credential": "corp"}
    return {"credentials": {"corp": login}, "upstreams": {"chat": chat}}


@asynccontextmanager
async def renewing(issuer: Scripted, upstream: Scripted, **blocks: Any) -> AsyncIterator[Gateway]:
    """Serve a configuration that calls `upstream` with the tokens of `issuer`."""
    async with issuer, upstream, gateway(**corp(issuer, upstream), **blocks) as gp:
        yield gp
