"""relay: the judged reply goes to the client as it comes."""

from __future__ import annotations

import asyncio

from gatepass.call import Response
from gatepass.errors import TransportFault
from gatepass.observe.exchange import Exchange
from gatepass.relay.usage import as_fields, usage_of
from gatepass.reply import Reply
from gatepass.upstream.fault import upstream_error
from gatepass.verdict import Begun, Whole

TAIL_S = 1.0
"""How long an upstream may take to end its body after `[DONE]`, so that its connection can be used again."""

OK = 200


async def relay(answer: Whole | Begun, reply: Reply, exchange: Exchange) -> None:
    """Write `answer` to the client; raises what broke it off, for the stream's error event."""
    if isinstance(answer, Whole):
        exchange.usage = as_fields(usage_of(answer.body))
        await reply.whole(answer.status, answer.headers, answer.body)
        return
    try:
        exchange.adapted = (*exchange.adapted, *answer.events.adapted)
        await reply.begin_stream(OK, answer.hop.dialect.relay_headers(answer.response.headers))
        await _pump(answer, reply, exchange)
    finally:
        _note(answer, exchange)
        await answer.response.aclose()


async def _pump(begun: Begun, reply: Reply, exchange: Exchange) -> None:
    """Each run of whole events leaves the moment it is here; returns when the stream ended well."""
    events, ready, at_end = begun.events, begun.ready, begun.whole
    pieces = aiter(begun.response)
    while True:
        exchange.keep_body("reply", ready)
        if events.failure is not None:
            await reply.events(ready, last=events.has_told)
            raise events.failure
        if at_end or events.done:
            await reply.events(ready, last=True)
            break
        if ready:
            await reply.events(ready)
        try:
            ready = events.feed(await anext(pieces))
        except StopAsyncIteration:
            ready, at_end = events.finish(), True
        except TransportFault as fault:
            events.broken(upstream_error(fault, begun.hop.name, begun.hop.settings.base_url))
            ready, at_end = b"", True
    await _read_tail(begun.response)


async def _read_tail(response: Response) -> None:
    """Nothing but the body's own end is expected after `[DONE]`; a connection read to it can be reused."""
    try:
        async with asyncio.timeout(TAIL_S):
            async for _ in response:
                pass
    except (TimeoutError, TransportFault):
        return  # then it is closed instead


def _note(begun: Begun, exchange: Exchange) -> None:
    exchange.events = begun.events.events
    exchange.usage = as_fields(begun.events.usage)
    exchange.adapted = tuple(dict.fromkeys((*exchange.adapted, *begun.events.adapted)))
