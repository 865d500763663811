"""Signs of life for a stream that waits or pauses, in the forms that clients read.

Signs of life for a client that waits for a stream while nothing comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gatepass.clock import Clock, PeriodicChecks
from gatepass.config.access import Profile
from gatepass.proxy.client_response import ClientResponse
from gatepass.sse.chunk import CHAT_CHUNK, LEGACY, EnvelopeDefaults, empty_choice, encode_event
from gatepass.types import Call, ClientProtocol

COMMENT = b": keep-alive\n\n"
"""A block by itself: clients that cut a stream at its blank lines throw it away alone (Dify, RAGFlow's Go client)."""
COMMENT_AFTER_ID = b": keep-alive\n"
"""Behind an `id:` line a blank line more is an empty event to openai-python, and it dies (its issues 2722, 3833)."""


class KeepAliveState(Protocol):
    """The stream that a sign stands in, as far as it has gone out."""

    @property
    def has_ids(self) -> bool:
        """Whether an event with an `id:` has gone out."""
        ...

    @property
    def envelope(self) -> Mapping[str, Any]:
        """What its chunks say of themselves (`id`, `created`, `model`), as far as that is known."""
        ...

    @property
    def open_choice(self) -> int | None:
        """The first choice that may go on; None where each has had its finish reason."""
        ...


KeepAliveEncoder = Callable[[KeepAliveState | None], bytes]
"""The sign to write behind what has gone out of a stream, None where none has begun; b"" for none at this point."""


def keep_alive_encoder(profile: Profile, call: Call, wall: Callable[[], float]) -> KeepAliveEncoder | None:
    """What keeps the stream that answers `call` alive for a client of `profile`, None for nothing. `wall` gives seconds
    since the epoch.

    Where comments are not read, streams of responses get nothing. An event of theirs has a number of its own, so one
    that is put in between would have to change all that follow; and before `response.created`, where most of the wait
    is, openai-python takes no other (ResponseStreamState).
    """
    if profile.keep_alive == "comment":
        return comment_keep_alive
    if profile.keep_alive == "off" or call.operation.protocol is not ClientProtocol.CHAT:
        return None
    defaults = EnvelopeDefaults(lambda prefix: f"{prefix}{call.id}", int(wall()), call.model)
    return EmptyDeltaKeepAlive(defaults, is_text=call.operation.name == "completions")


def comment_keep_alive(events: KeepAliveState | None) -> bytes:
    return COMMENT_AFTER_ID if events is not None and events.has_ids else COMMENT


@dataclass(frozen=True, slots=True)
class EmptyDeltaKeepAlive:
    """For parsers that stumble over comments: a chunk without text. It bears the stream's own name as soon as that is
    known, until then one of `defaults`; behind a finish reason nothing may follow but the usage, and so no sign does.
    """

    origin: EnvelopeDefaults
    is_text: bool = False

    def __call__(self, events: KeepAliveState | None) -> bytes:
        index = 0 if events is None else events.open_choice
        if index is None:
            return b""
        told = {} if events is None else events.envelope
        return encode_event({**self._head(), **told, "choices": [empty_choice(index, is_text=self.is_text)]})

    def _head(self) -> dict[str, Any]:
        kind, prefix = (LEGACY, "cmpl-") if self.is_text else (CHAT_CHUNK, "chatcmpl-")
        defaults = self.origin
        return {"id": defaults.new_id(prefix), "object": kind, "created": defaults.created_s, "model": defaults.model}


OK = 200

HOLD_S = 5.0
"""How long the head of a stream is held back for an upstream that answers whole: its errors keep their status."""
STREAM_HOLD_S = 15.0
"""The same for one that streams, whose head comes at once where nothing is wrong. Longer than what ends in an error of
its own takes (a connection 5 s, a credential 10 s), shorter than the 30 s after which the strictest proxies give up."""
EVERY_S = 12.0
"""Proxies give up on a connection that is silent for 60 s, clients of few lines sooner (nginx: proxy_read_timeout)."""


class KeepAlive:
    """Holds the head of a stream back for a while, so that an error that comes till then keeps its true status; then
    commits the 200 and writes a sign whenever nothing has gone out for EVERY_S, which resets the read timeouts on the
    way. So too in the middle of a stream that pauses.

    What is written to the client are whole events, so between two of them is wherever it is looked. It is looked in
    rounds, so a sign comes up to a round late; it writes only what the client takes at once: a client that does not
    read is not kept awake by more bytes. Nothing comes behind the end of the reply, and nothing after `stop`.
    """

    __slots__ = ("_clock", "_events", "_hold_s", "_reply", "_rounds", "_seen_bytes", "_sign", "_since_s")

    def __init__(self, client_response: ClientResponse, clock: Clock, periodic_checks: PeriodicChecks) -> None:
        self._reply = client_response
        self._clock = clock
        self._rounds = periodic_checks
        self._sign: KeepAliveEncoder | None = None
        self._events: KeepAliveState | None = None
        self._hold_s = STREAM_HOLD_S
        self._since_s = 0.0
        self._seen_bytes = 0

    def start(self, sign: KeepAliveEncoder, hold_s: float) -> None:
        """Begin to count; the wait is one over all attempts, so a second call can only shorten the hold."""
        if self._sign is None:
            self._sign, self._hold_s, self._since_s = sign, hold_s, self._clock.now()
            self._rounds.add(self)
        self._hold_s = min(hold_s, self._hold_s)

    def watch_stream(self, events: KeepAliveState) -> None:
        """From here on the client gets `events`."""
        self._events = events

    def stop(self) -> None:
        if self._sign is not None:
            self._rounds.remove(self)

    def check(self) -> None:
        client_response, now = self._reply, self._clock.now()
        if client_response.ended:
            return
        if client_response.sent_bytes != self._seen_bytes:
            self._seen_bytes, self._since_s = client_response.sent_bytes, now
        elif now - self._since_s >= (EVERY_S if client_response.begun else self._hold_s):
            if not client_response.begun:
                client_response.begin_stream(OK, ())
            if sign := (self._sign or comment_keep_alive)(self._events):
                client_response.comment(sign)
            self._seen_bytes, self._since_s = client_response.sent_bytes, now
