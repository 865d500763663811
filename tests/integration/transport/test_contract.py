"""What only real sockets show of a Transport. tests/unit/http_client has each reply, each split and each timeout."""

import asyncio
import gzip

import pytest

from gatepass.errors import Fault, TransportFault
from tests.integration.scripted import (
    LAST_CHUNK,
    Fin,
    Hold,
    Rst,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    head,
    reply,
)
from tests.integration.transport.hand import DIRECT
from tests.unit.clock import settle

OK = reply(b"fine")
ENDS: dict[str, Fin | Rst] = {"FIN": Fin(), "RST": Rst()}


async def test_an_unknown_coding_is_refused_and_its_connection_dropped():
    async with Scripted([Send(reply(b"?", content_encoding="zstd"))], [Send(OK)]) as upstream, DIRECT.open(1) as hand:
        assert (await hand.fault(upstream.url)).kind is Fault.INVALID
        assert (await hand.ask(upstream.url)).body == b"fine"


@pytest.mark.parametrize("end", ENDS)
async def test_a_reused_connection_that_dies_under_a_large_body_is_stale(end: str):
    async with Scripted([Send(OK)], [ENDS[end]]) as upstream, DIRECT.open() as hand:
        await hand.ask(upstream.url)
        fault = await hand.fault(upstream.url, b"x" * 3_000_000)
        assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, True, True)


@pytest.mark.parametrize("end", ENDS)
async def test_a_connection_that_closed_while_idle_is_not_used(end: str):
    async with Scripted([Send(OK), ENDS[end]]) as upstream, DIRECT.open() as hand:
        for _ in range(3):
            assert (await hand.ask(upstream.url)).body == b"fine"
            await upstream.left()
            await settle()  # the end is in the kernel; the loop has to have a look
    assert (upstream.connections, len(upstream.received)) == (3, 3)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70 + ".invalid"])
async def test_unresolvable_host_is_a_dns_fault(host: str):
    async with DIRECT.open() as hand:
        fault = await hand.fault(f"http://{host}/")
    assert (fault.kind, fault.sent) == (Fault.DNS, False)


async def test_closing_ends_replies_under_way():
    async with Scripted([*begin_stream(), Hold()]) as upstream, DIRECT.open(1) as hand:
        response = await hand.send(upstream.url)
        waiting = asyncio.create_task(hand.fault(upstream.url))
        await asyncio.sleep(0)
        await hand.transport.aclose()
        with pytest.raises(TransportFault, match="closed"):
            await anext(aiter(response))
        assert (await waiting).kind is Fault.CLOSED
        assert (await hand.fault(upstream.url)).sent is False
        await upstream.left()


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_a_reply_shows_whether_its_body_has_ended(coding: str):
    body, go_on = gzip.compress(b"one") if coding == "gzip" else b"one", asyncio.Event()
    begun = head(200, transfer_encoding="chunked", content_encoding=coding)
    async with Scripted([Send(begun + chunk(body)), Wait(go_on), Send(LAST_CHUNK)]) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        found = [(await response.stream_to(lambda _: False), response.ended)]
        go_on.set()
        found.append((await response.stream_to(lambda _: True), response.ended))
        await response.aclose()
    assert found == [(False, False), (True, True)]
