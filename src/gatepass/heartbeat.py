"""Signs of life for a client that waits for a stream while the upstream answers whole."""

from __future__ import annotations

from gatepass.reply import Reply
from gatepass.runtime import Clock, Timer

COMMENT = b": keep-alive\n"
"""Without a blank line behind it: after an `id:` line openai-python makes an empty event of that, and dies."""

OK = 200


class Heartbeat:
    """Holds the head back for `hold_s`, so that an error that comes till then keeps its true status; then
    commits the 200 and writes `sign` every `every_s`, which resets the read timeouts on the way.

    It writes from timers, never from a task of its own, and only what the client takes at once: a client
    that does not read is not kept awake by more bytes. `stop` before anything else is written.
    """

    __slots__ = ("_clock", "_every_s", "_hold_s", "_reply", "_sign", "_timer")

    def __init__(self, reply: Reply, clock: Clock, hold_s: float, every_s: float) -> None:
        self._reply = reply
        self._clock = clock
        self._hold_s = hold_s
        self._every_s = every_s
        self._timer: Timer | None = None
        self._sign = COMMENT

    def start(self, sign: bytes = COMMENT) -> None:
        """Begin to count; a second call changes nothing, for the wait is one over all attempts."""
        if self._timer is None:
            self._sign = sign
            self._timer = self._clock.call_later(self._hold_s, self._beat)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        if not self._reply.begun:
            self._reply.begin_stream(OK, ())
        self._reply.comment(self._sign)
        self._timer = self._clock.call_later(self._every_s, self._beat)
