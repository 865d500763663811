"""What has gone out to the client so far, and how it is told of an error at that point."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from gatepass.errors import GatepassError
from gatepass.operations.error_objects import error_body, error_headers, response_error, stream_error
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.types import ClientProtocol

Fields = list[tuple[bytes, bytes]]

SLICE_BYTES = 256 * 1024
"""As much of a larger reply is handed to the client's connection at once."""
WHOLE_BYTES = 2 * SLICE_BYTES
"""A reply that is no larger is handed over whole: of a larger one two slices wait there, and the slices are copies."""

STREAM_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""nginx buffers event streams without the last one, and caches keep or compress them without the second."""
NO_STORE = (b"cache-control", b"no-store")
"""A reply holds what one caller asked for."""

_STREAM_FIELDS = frozenset(name for name, _ in STREAM_HEADERS)


class ClientResponse:
    """The first hop's response under way: not begun, begun, ended, and out when the client's connection has it."""

    def __init__(self, cycle: RequestCycle, context: RequestContext) -> None:
        self.cycle = cycle
        self._context = context
        self._clock = context.state.clock
        self._is_raw = False
        self.begun = False
        self.ended = False
        """Nothing is added any more."""
        self.is_sent = False
        """The client's connection has taken all of it."""

    @property
    def connected_before_drain(self) -> bool:
        return self.cycle.connected_before_drain

    @property
    def sent_bytes(self) -> int:
        """Of the body so far."""
        return self._context.bytes_out

    async def send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a complete response."""
        self._begin(status, (*headers, NO_STORE), len(body))
        context = self._context
        context.first_byte_s = context.head_s
        context.bytes_out += len(body)
        self.ended = True
        if len(body) > WHOLE_BYTES:
            body = await self._send_slices(body)
        await self.cycle.write(body, last=True)
        self.is_sent = True

    def begin_stream(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the head of a stream, unless comments of our own have brought it out already."""
        if self.begun:
            return
        kept = [field for field in headers if field[0] not in _STREAM_FIELDS]
        self._begin(status, [*kept, *STREAM_HEADERS])

    def begin_raw(self, status: int, headers: Iterable[tuple[bytes, bytes]], length_bytes: int | None) -> None:
        """Write the head of what is no stream of events: an error behind it can only break the connection."""
        self._is_raw = True
        self._begin(status, (*headers, NO_STORE), length_bytes)

    async def send_events(self, data: bytes, *, last: bool = False) -> None:
        """Send a run of whole events."""
        if data:
            self._mark_first_byte()
        self.ended = last
        await self._write(data, last=last)

    def try_send_events(self, data: bytes) -> bool:
        """Send a run of whole events of a begun stream, if that can be done without waiting."""
        if not self.cycle.try_write(data):
            return False
        context = self._context
        if context.first_byte_s is None:
            self._mark_first_byte()
        context.bytes_out += len(data)
        return True

    def comment(self, line: bytes) -> None:
        """Send a sign of life to a begun stream, where the client takes it at once: it is no part of an answer."""
        if self.cycle.try_write(line):
            self._context.bytes_out += len(line)

    async def send_error(self, error: GatepassError) -> None:
        """Tell the client of `error`: as the response itself, or as the last event of a begun stream.

        A begun raw response stays unfinished, and the connection breaks off with it.
        """
        self._context.error = error
        if self.ended or self._is_raw:
            return
        if self.begun:
            written = response_error if self._context.operation == ClientProtocol.RESPONSES else stream_error
            rewords = self._context.profile.settings.rewords_errors
            await self.send_events(written(error, rewords=rewords), last=True)
            return
        headers = [field for field in error_headers(error) if field != NO_STORE]  # `whole` adds it
        await self.send(error.http_status, [*headers, *error.relayed], error_body(error))

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], length_bytes: int | None = None) -> None:
        self.begun = True
        context = self._context
        context.status = status
        context.head_s = head_s = self._clock.now() - context.client_request.arrived_s
        timing = _server_timing(head_s, context.token_wait_s)
        own = ((b"x-request-id", context.client_request.id.encode("latin-1")), (b"server-timing", timing))
        fields = [*headers, *context.headers, *own]
        attempt = context.attempts[-1] if context.attempts else None
        if attempt is not None and (attempt.adapted or attempt.tried or attempt.requests > 1 or context.failover):
            _add_changes(fields, context, attempt)
        self.cycle.start(status, fields, length_bytes)

    async def _write(self, data: bytes, *, last: bool) -> None:
        self._context.bytes_out += len(data)
        if len(data) > WHOLE_BYTES:
            data = await self._send_slices(data)
        await self.cycle.write(data, last=last)
        self.is_sent = last

    async def _send_slices(self, data: bytes) -> bytes:
        """Write `data` except its last slice, and return that: so a slow client leaves it here, where it counts as
        held."""
        at = 0
        while len(data) - at > SLICE_BYTES:
            await self.cycle.write(data[at : at + SLICE_BYTES])
            at += SLICE_BYTES
        return data[at:]

    def _mark_first_byte(self) -> None:
        context = self._context
        if context.first_byte_s is None:
            context.first_byte_s = self._clock.now() - context.client_request.arrived_s


def _add_changes(fields: Fields, context: RequestContext, attempt: Attempt) -> None:
    """Add what was changed, tried in vain and sent more than once, as far as the client is told."""
    requests = context.requests
    if attempt.adapted:
        fields.append((b"x-gatepass-adapted", ", ".join(attempt.adapted).encode("latin-1", "replace")))
    if attempt.tried and context.error is not None:
        fields.append((b"x-gatepass-tried", ", ".join(attempt.tried).encode("latin-1", "replace")))
    if requests > 1:
        fields.append((b"x-gatepass-attempts", str(requests).encode()))


def _server_timing(head_s: float, token_wait_s: float) -> bytes:
    """Milliseconds until the head: all of it, and what of that was waiting for a token."""
    if not token_wait_s:  # nearly always: two formats less
        return b"total;dur=%.1f, token;dur=0.0" % (head_s * 1000)
    return b"total;dur=%.1f, token;dur=%.1f" % (head_s * 1000, token_wait_s * 1000)


class RequestCycle(Protocol):
    """The client's side of one request. Implemented on HTTP/1.1 (`api.turn`) and on ASGI (`api.asgi`).

    One task calls `body` or `piece`, then `start`, then `write` and `offer` until one `write` with `last`. If that
    never comes, the connection breaks off: a reply without its end never looks complete. Whatever is sent after the
    client has gone is dropped.
    """

    @property
    def connected_before_drain(self) -> bool:
        """Whether the request came on a connection that was open before new ones were refused."""
        ...

    def set_caller(self, caller: str) -> None:
        """The request is `caller`'s, and is served: its connection counts for that caller from now on."""
        ...

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        """Return the whole request body. It is not asked for (`100 Continue`) before this call.

        `claim` is called with the size of each piece when it arrives, and may raise Overloaded. Then the rest of the
        body is dropped and the connection closes behind the response.
        Raises BodyTooLarge, InvalidRequest, Overloaded, ReceiveTimeout and ClientGone.
        """
        ...

    async def read_piece(self, limit_bytes: int) -> bytes:
        """Return the next bytes of the request body, b"" at its end. For a body that is passed on, instead of `body`.

        Reads ahead a bounded number of bytes, so the client sends as fast as the pieces are taken. Raises as `body`.
        """
        ...

    def start(self, status: int, headers: list[tuple[bytes, bytes]], length_bytes: int | None = None) -> None:
        """Set the response's head, which goes out with the first bytes behind it.

        `length_bytes`: the size of the body, None if it is not known. Framing is the client's.
        """
        ...

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send `data` as soon as the client takes more. `last` ends the response, and returns when it is sent."""
        ...

    def try_write(self, data: bytes) -> bool:
        """Send `data` without waiting, and return True; or return False and send none of it."""
        ...

    def on_disconnect(self, left: Callable[[], None]) -> Callable[[], None]:
        """Call `left` once when the client has gone, at once if it has. Return the function that ends the watch.

        Only after `body` or `piece`: nothing reads from the client before.
        """
        ...
