"""relay: the judged reply goes to the client as it comes."""

from __future__ import annotations

import asyncio

from gatepass.errors import TransportFault
from gatepass.proxy.client_response import Reply
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.keepalive import Heartbeat
from gatepass.proxy.response import Answer, Begun, Passed, Whole, let_go
from gatepass.proxy.upstream_call import broken
from gatepass.sse.event import DONE
from gatepass.sse.event_stream import EventStream
from gatepass.sse.usage import told, usage_of
from gatepass.types import Response, header

OK = 200


async def relay(answer: Answer, context: RequestContext, reply: Reply, heartbeat: Heartbeat) -> None:
    """Write `answer` to the client; raises what broke it off, for the stream's error event.

    `heartbeat`, where it was started, goes on while a stream pauses.
    """
    attempt = context.attempts[-1]
    if isinstance(answer, Whole):  # most are
        context.usage = told(answer.usage or usage_of(answer.body))
        context.empty_answer = answer.is_empty
        attempt.add_changes(answer.adapted)
        await reply.whole(answer.status, answer.headers, answer.body)
        return
    if isinstance(answer, Begun):
        heartbeat.follow(answer.events)
        await _stream(answer, context, reply)
        await let_go(answer.response, context.gate.live.tasks, context.gate.clock)
        return
    if isinstance(answer, Passed):
        await _pass(answer, attempt, reply)
        return
    context.usage = told(usage_of(answer.body))
    context.empty_answer = answer.is_empty
    attempt.add_changes(answer.adapted)
    context.events = answer.events.count(b"\n\n") - answer.events.endswith(DONE)
    reply.begin_stream(OK, answer.headers)
    await reply.events(answer.events, last=True)


async def _stream(begun: Begun, context: RequestContext, reply: Reply) -> None:
    """Closes the stream where it did not come to its end."""
    attempt = context.attempts[-1]
    try:
        attempt.add_changes(begun.events.adapted)
        reply.begin_stream(OK, begun.hop.response_headers.relayed(begun.response.headers))
        await _pump(begun, attempt, reply)
    except BaseException:  # a client that leaves in mid-stream comes as a cancellation
        await begun.response.aclose()
        raise
    finally:
        context.events = begun.events.events
        context.usage = told(begun.events.usage)
        context.empty_answer = begun.events.is_empty
        attempt.add_changes(begun.events.adapted)


async def _pass(passed: Passed, attempt: Attempt, reply: Reply) -> None:
    """Piece by piece, as fast as the client takes them; a failure leaves the response unfinished."""
    hop, response = passed.hop, passed.response
    held: list[bytes] = []

    def take(piece: bytes) -> bool:
        attempt.keep_reply(piece)
        if reply.offer(piece):
            return True
        held.append(piece)
        return False

    try:
        reply.begin_raw(response.status, hop.response_headers.relayed(response.headers), _length_bytes(response))
        while not await response.pour(take):
            await reply.events(b"".join(held))
            held.clear()
        await reply.events(b"".join(held), last=True)
    except TransportFault as fault:
        raise broken(attempt, fault) from fault
    finally:
        await response.aclose()


def _length_bytes(response: Response) -> int | None:
    """What the upstream announced, where its body is not coded otherwise than it goes on."""
    length = header(response.headers, b"content-length")
    is_coded = header(response.headers, b"content-encoding") not in (None, b"identity")
    return int(length) if length is not None and length.isdigit() and not is_coded else None


async def _pump(begun: Begun, attempt: Attempt, reply: Reply) -> None:
    """Each run of whole events leaves the moment it is here; returns when the stream ended well."""
    events, outlet = begun.events, _Outlet(begun.events, attempt, reply, begun.ready)
    at_end = begun.whole
    while not (at_end or outlet.is_over):
        await outlet.flush()
        if events.waiting:
            await asyncio.sleep(0)
            outlet.take(b"")
            continue
        try:
            at_end = await begun.response.pour(outlet.take)
            if at_end:
                outlet.hold(events.finish())
        except TransportFault as fault:
            events.broken(broken(attempt, fault))
            at_end = True
    if events.failure is not None:
        await reply.events(outlet.held)
        raise events.failure
    await reply.events(outlet.held, last=True)


class _Outlet:
    """Passes pieces on for as long as the stream goes on and the client takes them; the run of events
    that waits, for room or for the stream's last words, is `held`."""

    def __init__(self, events: EventStream, attempt: Attempt, reply: Reply, ready: bytes) -> None:
        self._events = events
        self._attempt = attempt
        self._keeps_bodies = attempt.gate.keeps_bodies
        self._reply = reply
        self.held = b""
        self.hold(ready)

    @property
    def is_over(self) -> bool:
        return self._events.done or self._events.failure is not None

    def hold(self, ready: bytes) -> None:
        self._attempt.keep_reply(ready)
        self.held = ready

    def take(self, piece: bytes) -> bool:
        """Whether `piece` went on at once, and the next one may come. All in one frame: this is called for each."""
        events = self._events
        ready = events.feed(piece)
        if self._keeps_bodies:
            self._attempt.keep_reply(ready)
        if events.done or events.failure is not None or events.waiting or (ready and not self._reply.offer(ready)):
            self.held = ready
            return False
        return True

    async def flush(self) -> None:
        ready, self.held = self.held, b""
        if ready:
            await self._reply.events(ready)
