"""A token endpoint for one source."""

import ssl
from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest
import respx

from gatepass.tokens import FetchFailure, TokenSource, build_source
from gatepass.tokens.token_endpoint import issuer_transport
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import Answer, failure_of


class Endpoint:
    """Gives the replies of `answers` in order, the last one for ever; without any a new token that lives 300 s.

    respx answers in place of the network, below the transport that gatepass uses.
    """

    def __init__(self, route: respx.Route) -> None:
        self.clock = DrivenClock()
        self._route = route
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._route.side_effect = _minted

    def answers(self, *replies: Answer) -> None:
        given: list[Any] = [httpx2.Response(one.status, headers=[*one.headers], content=one.body) for one in replies]
        self._route.side_effect = chain(given, repeat(given[-1]))

    @property
    def requests(self) -> list[Any]:
        return [call.request for call in self._route.calls]

    def source(self, settings: Any, name: str = "corp") -> TokenSource:
        return build_source(name, settings, issuer_transport(settings.network, self._tls), self.clock)

    async def sent(self, settings: Any, name: str = "corp") -> httpx2.Request:
        """Return the request of one fetch."""
        await self.source(settings, name).fetch()
        request: httpx2.Request = self.requests[-1]
        return request

    async def failure(self, settings: Any, *replies: Answer) -> FetchFailure:
        """Return how one fetch fails."""
        if replies:
            self.answers(*replies)
        return await failure_of(self.source(settings).fetch())


def _minted(_: Any, route: respx.Route) -> Any:
    return httpx2.Response(200, json={"access_token": f"token-{route.call_count + 1}", "expires_in": 300})


def form_in(request: httpx2.Request) -> dict[str, str]:
    """Return the fields of the request's form; of several with one name the last."""
    return dict(parse_qsl(request.content.decode()))


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with respx.mock(assert_all_called=False) as router:
        yield Endpoint(router.route())
