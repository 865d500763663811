"""Signs of life for a client that waits for a stream while nothing comes."""

from __future__ import annotations

from gatepass.clock import Clock, Rounds
from gatepass.proxy.client_response import Reply
from gatepass.proxy.keepalive import Events, Sign, comment

OK = 200

HOLD_S = 5.0
"""How long the head of a stream is held back for an upstream that answers whole: its errors keep their status."""
STREAM_HOLD_S = 15.0
"""The same for one that streams, whose head comes at once where nothing is wrong. Longer than what ends in an error of
its own takes (a connection 5 s, a credential 10 s), shorter than the 30 s after which the strictest proxies give up."""
EVERY_S = 12.0
"""Proxies give up on a connection that is silent for 60 s, clients of few lines sooner (nginx: proxy_read_timeout)."""


class Heartbeat:
    """Holds the head of a stream back for a while, so that an error that comes till then keeps its true status; then
    commits the 200 and writes a sign whenever nothing has gone out for EVERY_S, which resets the read timeouts on the
    way. So too in the middle of a stream that pauses.

    What is written to the client are whole events, so between two of them is wherever it is looked. It is looked in
    rounds, so a sign comes up to a round late; it writes only what the client takes at once: a client that does not
    read is not kept awake by more bytes. Nothing comes behind the end of the reply, and nothing after `stop`.
    """

    __slots__ = ("_clock", "_events", "_hold_s", "_reply", "_rounds", "_seen_bytes", "_sign", "_since_s")

    def __init__(self, reply: Reply, clock: Clock, rounds: Rounds) -> None:
        self._reply = reply
        self._clock = clock
        self._rounds = rounds
        self._sign: Sign | None = None
        self._events: Events | None = None
        self._hold_s = STREAM_HOLD_S
        self._since_s = 0.0
        self._seen_bytes = 0

    def start(self, sign: Sign, hold_s: float) -> None:
        """Begin to count; the wait is one over all attempts, so a second call can only shorten the hold."""
        if self._sign is None:
            self._sign, self._hold_s, self._since_s = sign, hold_s, self._clock.now()
            self._rounds.join(self)
        self._hold_s = min(hold_s, self._hold_s)

    def follow(self, events: Events) -> None:
        """From here on the client gets `events`."""
        self._events = events

    def stop(self) -> None:
        if self._sign is not None:
            self._rounds.leave(self)

    def look(self) -> None:
        reply, now = self._reply, self._clock.now()
        if reply.ended:
            return
        if reply.sent_bytes != self._seen_bytes:
            self._seen_bytes, self._since_s = reply.sent_bytes, now
        elif now - self._since_s >= (EVERY_S if reply.begun else self._hold_s):
            if not reply.begun:
                reply.begin_stream(OK, ())
            if sign := (self._sign or comment)(self._events):
                reply.comment(sign)
            self._seen_bytes, self._since_s = reply.sent_bytes, now
