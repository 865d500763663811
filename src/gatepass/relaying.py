"""relay: the judged reply goes to the client as it comes."""

from __future__ import annotations

import asyncio

from gatepass.call import Response
from gatepass.errors import TransportFault
from gatepass.observe.exchange import Exchange
from gatepass.relay.stream import EventStream
from gatepass.relay.usage import as_fields, usage_of
from gatepass.reply import Reply
from gatepass.upstream.fault import upstream_error
from gatepass.verdict import Answer, Begun, Whole

TAIL_S = 1.0
"""How long an upstream may take to end its body after `[DONE]`, so that its connection can be used again."""

OK = 200


async def relay(answer: Answer, reply: Reply, exchange: Exchange) -> None:
    """Write `answer` to the client; raises what broke it off, for the stream's error event."""
    if isinstance(answer, Begun):
        await _stream(answer, reply, exchange)
        return
    exchange.usage = as_fields(usage_of(answer.body))
    exchange.adapted = _with(exchange.adapted, answer.adapted)
    if isinstance(answer, Whole):
        await reply.whole(answer.status, answer.headers, answer.body)
        return
    exchange.events = answer.events.count(b"\n\n") - 1
    reply.begin_stream(OK, answer.headers)
    await reply.events(answer.events, last=True)


async def _stream(begun: Begun, reply: Reply, exchange: Exchange) -> None:
    try:
        exchange.adapted = _with(exchange.adapted, begun.events.adapted)
        reply.begin_stream(OK, begun.hop.dialect.relay_headers(begun.response.headers))
        await _pump(begun, reply, exchange)
    finally:
        exchange.events = begun.events.events
        exchange.usage = as_fields(begun.events.usage)
        exchange.adapted = _with(exchange.adapted, begun.events.adapted)
        await begun.response.aclose()


def _with(adapted: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Both, in order, each name once."""
    return tuple(dict.fromkeys((*adapted, *more))) if more else adapted


async def _pump(begun: Begun, reply: Reply, exchange: Exchange) -> None:
    """Each run of whole events leaves the moment it is here; returns when the stream ended well."""
    events, outlet = begun.events, _Outlet(begun.events, reply, exchange, begun.ready)
    at_end = begun.whole
    while not (at_end or outlet.is_over):
        await outlet.flush()
        try:
            at_end = await begun.response.pour(outlet.take)
            if at_end:
                outlet.hold(events.finish())
        except TransportFault as fault:
            events.broken(upstream_error(fault, begun.hop.name, begun.hop.settings.base_url))
            at_end = True
    if events.failure is not None:
        await reply.events(outlet.held, last=events.has_told)
        raise events.failure
    await reply.events(outlet.held, last=True)
    await _read_tail(begun.response)


class _Outlet:
    """Passes pieces on for as long as the stream goes on and the client takes them; the run of events
    that waits, for room or for the stream's last words, is `held`."""

    def __init__(self, events: EventStream, reply: Reply, exchange: Exchange, ready: bytes) -> None:
        self._events = events
        self._reply = reply
        self._exchange = exchange
        self.held = b""
        self.hold(ready)

    @property
    def is_over(self) -> bool:
        return self._events.done or self._events.failure is not None

    def hold(self, ready: bytes) -> None:
        self._exchange.keep_body("reply", ready)
        self.held = ready

    def take(self, piece: bytes) -> bool:
        """Whether `piece` went on at once, and the next one may come."""
        self.hold(self._events.feed(piece))
        if self.is_over or (self.held and not self._reply.offer(self.held)):
            return False
        self.held = b""
        return True

    async def flush(self) -> None:
        ready, self.held = self.held, b""
        if ready:
            await self._reply.events(ready)


async def _read_tail(response: Response) -> None:
    """Nothing but the body's own end is expected after `[DONE]`; a connection read to it can be reused."""
    try:
        async with asyncio.timeout(TAIL_S):
            async for _ in response:
                pass
    except (TimeoutError, TransportFault):
        return  # then it is closed instead
