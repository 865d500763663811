"""A request that waits for its connection is sent with the current credential, or not at all."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from gatepass.http_client.response_body import read_whole
from gatepass.types import OutboundRequest
from tests.integration.scripted import Scripted, Send, Wait, reply
from tests.integration.transport.hand import BOUNDS, DIRECT, Hand
from tests.integration.transport.test_proxy import through
from tests.unit.clock import settle

OK = reply(b"fine")


class _TooLate(Exception):
    pass


def request(
    url: str, token: str, anew: Callable[[], OutboundRequest | None] | None = None, query: str = ""
) -> OutboundRequest:
    fields = ((b"accept", b"a/b"), (b"authorization", token.encode()))
    return OutboundRequest("POST", f"{url}/v1/x{query}", fields, b"{}", BOUNDS, reauthorize=anew)


async def whole(hand: Hand, sent: OutboundRequest) -> bytes:
    response = await hand.transport.send(sent)
    try:
        return await read_whole(response, 1000)
    finally:
        await response.aclose()


def shown(upstream: Scripted) -> list[tuple[str | None, str, bytes]]:
    return [(one.header("authorization"), one.target, one.body) for one in upstream.received]


class Moment:
    """The current credential: each waiting request asks for it at least once."""

    def __init__(self, url: str, query: str = "") -> None:
        self.url, self.query = url, query
        self.token: str | None = "first"
        self.asked = 0

    def anew(self) -> OutboundRequest | None:
        self.asked += 1
        if self.token is None:
            raise _TooLate
        return None if self.token == "first" else request(self.url, self.token, query=self.query)


@pytest.mark.parametrize("query", ["", "?key=1"])
async def test_a_request_that_waited_for_a_connection_has_the_current_token(query: str):
    go_on = asyncio.Event()
    async with Scripted([Wait(go_on), Send(OK)], [Send(OK)]) as upstream, DIRECT.open(max_connections=1) as hand:
        now = Moment(upstream.url, query)
        first = asyncio.create_task(whole(hand, request(upstream.url, "first")))
        await upstream.requested(1)
        second = asyncio.create_task(whole(hand, request(upstream.url, "first", now.anew)))
        await settle()  # no connection is opened: the loop's turns bring them where they wait
        assert now.asked == 0
        now.token = "second"
        go_on.set()
        assert [await first, await second] == [b"fine"] * 2
        assert shown(upstream) == [("first", "/v1/x", b"{}"), ("second", f"/v1/x{query}", b"{}")]
        assert now.asked == 1


async def test_a_request_whose_token_ended_in_the_wait_sends_nothing_and_frees_its_slot():
    go_on = asyncio.Event()
    async with Scripted([Wait(go_on), Send(OK)], [Send(OK)]) as upstream, DIRECT.open(max_connections=1) as hand:
        now = Moment(upstream.url)
        first = asyncio.create_task(whole(hand, request(upstream.url, "first")))
        await upstream.requested(1)
        late = [asyncio.create_task(whole(hand, request(upstream.url, "first", now.anew))) for _ in range(3)]
        await settle()  # no connection is opened: the loop's turns bring them where they wait
        now.token = None
        go_on.set()
        outcomes = await asyncio.gather(first, *late, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [bytes, *[_TooLate] * 3]
        assert [await whole(hand, request(upstream.url, "third")) for _ in range(3)] == [b"fine"] * 3
        assert [token for token, _, _ in shown(upstream)] == ["first", "third", "third", "third"]


async def test_request_on_an_idle_connection_is_encoded_once():
    async with Scripted([Send(OK)]) as upstream, DIRECT.open() as hand:
        now = Moment(upstream.url)
        for _ in range(3):
            await whole(hand, request(upstream.url, "first", now.anew))
        assert now.asked == 1


async def test_request_through_a_proxy_has_its_fields_and_an_absolute_url():
    async with Scripted([Send(OK)]) as proxy, through(proxy.url, "user:pass word") as hand:
        now = Moment("http://llm.example", "?key=2")
        now.token = "second"
        await whole(hand, request("http://llm.example", "first", now.anew, query="?key=1"))
        await whole(hand, request("http://llm.example", "second", query="?key=2"))
        one, other = proxy.received
        assert replace(one, connection=0) == replace(other, connection=0)
        assert (one.target, one.header("authorization")) == ("http://llm.example:80/v1/x?key=2", "second")
        assert one.header("proxy-authorization") is not None
