"""Keep-alives for a client that waits for a stream: when one is sent, and in which form.

A keep-alive resets the read timeouts of the client and of the proxies on the way. It is an SSE comment, or an empty
chunk for clients that cannot parse comments.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gatepass.clock import Clock
from gatepass.config.access import Profile
from gatepass.proxy.client_response import ClientResponse
from gatepass.proxy.in_flight import PeriodicChecks
from gatepass.sse.chunk import CHAT_CHUNK, LEGACY, EnvelopeDefaults, empty_choice, encode_event
from gatepass.sse.event_stream import EventStream
from gatepass.types import OK, Call, ClientProtocol

COMMENT = b": keep-alive\n\n"
"""With its own blank line, so that clients that split a stream at blank lines discard the comment alone (Dify)."""
COMMENT_AFTER_ID = b": keep-alive\n"
"""After an event with an `id:` line, openai-python parses one more blank line as an empty event and raises (its issues
2722 and 3833)."""
KeepAliveEncoder = Callable[[EventStream | None], bytes]
"""Return the keep-alive to write after the sent part of a stream; b"" if none is allowed there. The argument is None
before the stream has begun."""


def keep_alive_encoder(profile: Profile, call: Call, wall: Callable[[], float]) -> KeepAliveEncoder | None:
    """Return the keep-alive form for `call` and `profile`, None for no keep-alive. `wall` returns epoch seconds."""
    if profile.keep_alive == "comment":
        return comment_keep_alive
    # Events of the Responses API are numbered, so an additional one would renumber all that follow. Before
    # `response.created`, where most of the wait is, openai-python accepts no other event (ResponseStreamState).
    if profile.keep_alive == "off" or call.operation.protocol is not ClientProtocol.CHAT:
        return None
    defaults = EnvelopeDefaults(lambda prefix: f"{prefix}{call.id}", int(wall()), call.model)
    return EmptyDeltaKeepAlive(defaults, is_text=call.operation.name == "completions")


def comment_keep_alive(events: EventStream | None) -> bytes:
    return COMMENT_AFTER_ID if events is not None and events.has_ids else COMMENT


class EmptyDeltaKeepAlive(msgspec.Struct, frozen=True):
    """A chunk without text, for clients whose parser fails on comments.

    It has the stream's own id and model as soon as they are known, those of `defaults` before.
    """

    defaults: EnvelopeDefaults
    is_text: bool = False

    def __call__(self, events: EventStream | None) -> bytes:
        index = 0 if events is None else events.open_choice
        if index is None:  # after the last finish reason only the usage may follow
            return b""
        kind, prefix = (LEGACY, "cmpl-") if self.is_text else (CHAT_CHUNK, "chatcmpl-")
        defaults = self.defaults
        head = {"id": defaults.new_id(prefix), "object": kind, "created": defaults.created_s, "model": defaults.model}
        envelope = {} if events is None else events.envelope
        return encode_event({**head, **envelope, "choices": [empty_choice(index, is_text=self.is_text)]})


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
