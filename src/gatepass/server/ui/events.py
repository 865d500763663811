"""The event streams of the page: one collector for all viewers of a process, and a bounded queue for each viewer.

The collector runs only while there are viewers. Viewers with the same view and filters share a topic, so what is
collected does not depend on their number.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from starlette.types import Receive, Scope, Send

from gatepass.cancel import Tasks, timeout
from gatepass.clock import Clock, sleep
from gatepass.errors import ClientGone, TooManyViewers

MOST_VIEWERS = 32
TICK_S = 0.5
"""Time between two updates of the requests, and between two checks of the viewers' sessions."""
OVERVIEW_TICKS = 2
"""The overview is sent at each second tick."""
KEEP_ALIVE_S = 15.0
WAITING_EVENTS = 8
"""Above this the viewer reads too slowly: its stream ends, and the page connects again and receives everything."""
SEND_S = 10.0
"""Time for one write. A client that reads nothing for longer is disconnected."""


def event(name: str, data: Any) -> bytes:
    """Return one event of a stream: `event: NAME`, `data: JSON` and a blank line."""
    # JSON has no line breaks
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class Topic:
    """A view with its filters. `collect` returns the data of its next event, None if nothing is new."""

    def __init__(self, name: str, collect: Callable[[], Awaitable[Any]], ticks: int = 1) -> None:
        self.name, self.collect, self.ticks = name, collect, ticks


class Viewer:
    """One open event stream. `may_view` is called at each tick: the stream ends with its session."""

    def __init__(self, key: str, topic: Topic, may_view: Callable[[], bool]) -> None:
        self.key, self.topic, self.may_view = key, topic, may_view
        self.has_ended = False
        self._waiting: list[bytes] = []
        self._changed = asyncio.Event()

    def put(self, data: bytes) -> None:
        if len(self._waiting) >= WAITING_EVENTS:
            self.end()
        else:
            self._waiting.append(data)
            self._changed.set()

    def end(self, last: bytes = b"") -> None:
        """End the stream after `last`."""
        self._waiting.append(last)
        self.has_ended = True
        self._changed.set()

    async def wait(self) -> None:
        """Wait until `take` has something to return, or the stream has ended."""
        await self._changed.wait()

    def take(self) -> bytes:
        self._changed.clear()
        taken = b"".join(self._waiting)
        self._waiting.clear()
        return taken


class EventHub:
    """The viewers of one process. While `is_draining` returns True, all streams end."""

    def __init__(self, is_draining: Callable[[], bool]) -> None:
        self._is_draining = is_draining
        self._topics: dict[str, Topic] = {}
        self._viewers: dict[Viewer, None] = {}
        self._collector: asyncio.Task[None] | None = None

    def enter(self, key: str, topic: Topic, may_view: Callable[[], bool]) -> Viewer:
        """Add a viewer of the topic `key`, which `leave` removes; raise TooManyViewers.

        `topic` is its own: its first `collect` returns everything. If others view the same, they share theirs from then
        on, which may repeat what this viewer has.
        """
        if len(self._viewers) >= MOST_VIEWERS:
            raise TooManyViewers(f"The page is open in {MOST_VIEWERS} tabs. Close those that are not needed.")
        viewer = Viewer(key, topic, may_view)
        self._viewers[viewer] = None
        self._topics.setdefault(key, topic)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self._viewers.pop(viewer, None)
        if not any(one.key == viewer.key for one in self._viewers):
            self._topics.pop(viewer.key, None)

    async def events(self, viewer: Viewer, tasks: Tasks, clock: Clock) -> AsyncGenerator[bytes, None]:
        """Yield the events of `viewer` until its session ends or the process drains."""
        yield b": connected\n\n"  # the page sees that the stream is open, although nothing may be new for long
        yield event(viewer.topic.name, await viewer.topic.collect())
        if self._collector is None or self._collector.done():
            self._collector = tasks.spawn(self._collect(clock), "page events")
        while True:
            try:
                await timeout(clock, KEEP_ALIVE_S, viewer.wait(), TimeoutError())
            except TimeoutError:
                yield b": keep-alive\n\n"
                continue
            yield viewer.take()
            if viewer.has_ended:
                return

    async def _collect(self, clock: Clock) -> None:
        tick = 0
        try:
            while self._viewers:
                await sleep(clock, TICK_S)
                tick += 1
                self._end_streams()
                for key, topic in list(self._topics.items()):
                    if tick % topic.ticks == 0 and (data := await topic.collect()) is not None:
                        shown = event(topic.name, data)
                        for viewer in [one for one in self._viewers if one.key == key]:
                            viewer.put(shown)
        finally:  # without a collector, nothing would end the streams
            for viewer in self._viewers:
                viewer.end()

    def _end_streams(self) -> None:
        is_draining = self._is_draining()
        for viewer in self._viewers:
            if is_draining:
                viewer.end(event("end", {"why": "gatepass is stopping"}))
            elif not viewer.may_view():
                viewer.end(event("end", {"why": "the session has ended"}))


class EventStream:
    """The response with an event stream, as an ASGI application. Ends when the client disconnects.

    `on_end` is called once at its end, also if not one event was sent.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: list[tuple[bytes, bytes]],
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._events, self._on_end = events, on_end
        self._headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        self._headers += headers

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send), name="page stream")
        leaving = asyncio.create_task(_until_disconnect(receive), name="page disconnect")
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait((sending, leaving))
            self._on_end()
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        async with aclosing(self._events) as events:
            async for data in events:
                try:
                    async with asyncio.timeout(SEND_S):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                except TimeoutError:
                    return  # the server closes the connection, because the response is not complete
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_disconnect(receive: Receive) -> None:
    with suppress(ClientGone):
        while (await receive())["type"] != "http.disconnect":
            pass
