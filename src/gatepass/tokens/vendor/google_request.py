"""Our Transport in the shape that google-auth wants one: a call from its thread, answered by the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from google.auth.transport import Request, Response

from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.reply import Reply
from gatepass.tokens.vendor.errand import Errand

BOUND_S = 5.0
"""Beyond the fetch's own limit: a thread waits no longer, even for a loop that stands still."""
GIVEN_UP = "nobody waits for this token any more"


class GoogleRequest(Request):
    """What google-auth calls, in a thread, for each of its requests. Made in the loop that answers them.

    Raises FetchFailure for every status beyond 2xx: google-auth would sleep and ask again, where retries
    are the holder's, and any that is no success fails its fetch in the end.
    """

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._loop = asyncio.get_running_loop()
        self._under_way: asyncio.Task[Any] | None = None
        self._is_closed = False

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - google-auth's name for a limit that the errand has already
        **_: Any,
    ) -> Response:
        asked = asyncio.run_coroutine_threadsafe(self._ask(method, url, headers or {}, body or b""), self._loop)
        return _Response(asked.result(self._errand.hop.settings.timeout_s + BOUND_S))

    def close(self) -> None:
        """End the request that is under way, and let no other begin. In the loop's thread only."""
        self._is_closed = True
        if self._under_way is not None:
            self._under_way.cancel()

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if self._is_closed:
            raise FetchFailure(GIVEN_UP)
        self._under_way = asyncio.current_task()
        try:
            reply = await self._errand.ask(method, url, headers, body)
            if not 200 <= reply.status < 300:
                self._errand.answered()
            return reply
        finally:
            self._under_way = None


class _Response(Response):
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @property
    def status(self) -> int:
        return self._reply.status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self._reply.headers}

    @property
    def data(self) -> bytes:
        return self._reply.body
