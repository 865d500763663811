"""Keep-alives for a client that waits for a stream: when one is sent.

A keep-alive resets the read timeouts of the client and of the proxies on the way. The client protocol has its form.
"""

from __future__ import annotations

import msgspec

from gatepass.clock import Clock
from gatepass.protocols.client_protocol import KeepAliveEncoder, comment_keep_alive
from gatepass.proxy.client_response import ClientResponse
from gatepass.proxy.in_flight import PeriodicChecks
from gatepass.sse.event_stream import EventStream
from gatepass.types import OK

SYNTHESIZED_HOLD_S = 5.0
"""Time that the head of a stream is held back if the upstream does not stream: its errors then keep their status."""
STREAM_HOLD_S = 15.0
"""The same for an upstream that streams and sends its head at once.

It is longer than the timeouts that produce an error (a connection 5 s, a credential 10 s). It is shorter than the 30 s
after which the strictest proxies close a connection.
"""
EVERY_S = 12.0
"""Interval between keep-alives. nginx closes a connection without data after 60 s (proxy_read_timeout), simple clients
earlier."""


class KeepAlive(msgspec.Struct, eq=False):
    """Hold back the head of a stream, then send the 200 and a keep-alive whenever nothing was sent for EVERY_S.

    An error within the hold time keeps its HTTP status. `PeriodicChecks` calls `check`, so a keep-alive is up to one
    interval late. A keep-alive never splits an event. Nothing follows the end of the reply or `stop`.
    """

    _client_response: ClientResponse
    _clock: Clock
    _checks: PeriodicChecks
    _encoder: KeepAliveEncoder | None = None
    _events: EventStream | None = None
    _hold_s: float = STREAM_HOLD_S
    _since_s: float = 0.0
    _seen_bytes: int = 0

    def start(self, encoder: KeepAliveEncoder, hold_s: float) -> None:
        """Start the hold time. It spans all attempts, so a second call can only shorten it."""
        if self._encoder is None:
            self._encoder, self._hold_s, self._since_s = encoder, hold_s, self._clock.now()
            self._checks.add(self)
        self._hold_s = min(hold_s, self._hold_s)

    def watch_stream(self, events: EventStream) -> None:
        """Write the following keep-alives into the stream of `events`."""
        self._events = events

    def stop(self) -> None:
        if self._encoder is not None:
            self._checks.remove(self)

    def check(self) -> None:
        client_response, now = self._client_response, self._clock.now()
        if client_response.ended:
            return
        if client_response.sent_bytes != self._seen_bytes:
            self._seen_bytes, self._since_s = client_response.sent_bytes, now
        elif now - self._since_s >= (EVERY_S if client_response.begun else self._hold_s):
            if not client_response.begun:
                client_response.begin_stream(OK, ())
            if keep_alive := (self._encoder or comment_keep_alive)(self._events):
                client_response.send_keep_alive(keep_alive)
            self._seen_bytes, self._since_s = client_response.sent_bytes, now
