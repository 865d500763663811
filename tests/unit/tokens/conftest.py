"""Token endpoints that respx plays, behind the HTTP client that a credential has."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import respx

from gatepass.tokens import TokenSource, build_source
from gatepass.tokens.token_endpoint import issuer_transport
from gatepass.types import OutboundRequest
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import Answer

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Endpoint:
    """Gives the replies of `answers` in order, the last one for ever; without any a token that lives 300 s."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.clock = DrivenClock()
        self._replies = [httpx2.Response(200, json={"access_token": "token-1", "expires_in": 300})]
        self._route = router.route().mock(side_effect=self._reply)  # type: ignore[arg-type]  # typed for httpx

    def answers(self, *replies: Answer) -> None:
        self._replies = [httpx2.Response(each.status, headers=[*each.headers], content=each.body) for each in replies]

    def source(self, settings: Any, name: str = "corp") -> TokenSource:
        return build_source(name, settings, issuer_transport(settings, CONTEXT), self.clock)

    @property
    def requests(self) -> list[OutboundRequest]:
        """Without what HTTP/1.1 asks for."""
        return [_request(call.request) for call in self._route.calls]

    def _reply(self, _: httpx2.Request) -> httpx2.Response:
        return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]


def _request(request: httpx2.Request) -> OutboundRequest:
    own = [(name.lower(), value) for name, value in request.headers.raw]
    headers = tuple(field for field in own if field[0] not in (b"host", b"content-length"))
    return OutboundRequest(request.method, str(request.url), headers, request.content)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with respx.mock(assert_all_called=False) as router:
        yield Endpoint(router)
