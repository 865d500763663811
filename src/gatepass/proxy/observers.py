"""Pass the beginnings and ends of requests and attempts to the observers. `observers_of` is the list.

To add one, derive a class from `Observer` (`observability/observer.py`) and list it here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVarTuple, Unpack

from gatepass.observability.access_log import AccessLog
from gatepass.observability.metrics import Metrics
from gatepass.observability.observer import AttemptRecord, Observer
from gatepass.types import Headers, Response

LOG = logging.getLogger("gatepass.observers")

Values = TypeVarTuple("Values")


def observers_of(metrics: Metrics) -> Observers:
    """Return the observers of a process, in the order in which they learn of an event."""
    listed: list[Observer] = [
        metrics,
        AccessLog(),
    ]
    return Observers(listed, metrics.observer_failed)


class Observers:
    """Passes each event to the observers that override its method. Each attribute has the methods of one event."""

    def __init__(self, listed: Sequence[Observer], failed: Callable[[str], None]) -> None:
        """`failed` is called with the name of the class of an observer that raised."""
        self._failed = failed
        self._list(listed)

    def switch(self, observer: Observer, *, on: bool) -> None:
        """Let `observer` learn of events from now on, as the last one, or of no more events."""
        others = [one for one in self._listed if one is not observer]
        self._list([*others, observer] if on else others)

    def _list(self, listed: Sequence[Observer]) -> None:
        self._listed = listed

        def of(name: str) -> list[Observer]:
            return [one for one in listed if getattr(type(one), name) is not getattr(Observer, name)]

        self.request_began = tuple(one.request_began for one in of("request_began"))
        self.request_body = tuple(one.request_body for one in of("request_body"))
        self.attempt_repeats = tuple(one.attempt_repeats for one in of("attempt_repeats"))
        self.attempt_began = tuple(one.attempt_began for one in of("attempt_began"))
        self.request_sent = tuple(one.request_sent for one in of("request_sent"))
        self.reply_body = tuple(one.reply_body for one in of("reply_body"))
        self.attempt_ended = tuple(one.attempt_ended for one in of("attempt_ended"))
        self.request_ended = tuple(one.request_ended for one in of("request_ended"))
        self.refused = tuple(one.refused for one in of("refused"))
        self.rule_changed = tuple(one.rule_changed for one in of("rule_changed"))

    def tell(self, methods: Sequence[Callable[[Unpack[Values]], None]], *values: *Values) -> None:
        """Call each of `methods`. One that raises is counted, logged and skipped, because it must fail no request."""
        for method in methods:
            try:
                method(*values)
            except Exception:  # any fault: an observer must not end the request that it observes
                name = type(getattr(method, "__self__", method)).__name__
                self._failed(name)
                LOG.exception("observer_failed", extra={"fields": {"observer": name}})

    def reply(self, response: Response, attempt: AttemptRecord) -> Response:
        """Return `response` so that the observers of replies receive its pieces."""

        def seen(piece: bytes) -> None:
            self.tell(self.reply_body, attempt, piece)

        return ObservedResponse(response, seen)


class ObservedResponse:
    """A Response that passes each piece to `seen` before its reader receives it."""

    def __init__(self, response: Response, seen: Callable[[bytes], None]) -> None:
        self.status = response.status
        self.headers: Headers = response.headers
        self._response = response
        self._seen = seen

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._response:
            self._seen(piece)
            yield piece

    def stream_to(self, write: Callable[[bytes], bool]) -> Awaitable[bool]:
        def observed(piece: bytes) -> bool:
            self._seen(piece)
            return write(piece)

        return self._response.stream_to(observed)

    def take_whole(self, limit_bytes: int) -> bytes | None:
        body = self._response.take_whole(limit_bytes)
        if body is not None:
            self._seen(body)
        return body

    def aclose(self) -> Awaitable[None]:
        return self._response.aclose()

    def finish(self) -> None:
        self._response.finish()
