"""The workers of one machine ask each other: each answers for itself over a Unix socket in the supervisor's folder."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gatepass.errors import system_reason

LOG = logging.getLogger("gatepass.peers")

REQUEST_S = 1.0
"""Timeout for the page of one worker. A worker that does not answer in time is omitted."""
PAGE_BYTES = 8 * 1024 * 1024
RELOAD, RETRY = "/reload", "/retry"
"""Commands of the control socket, which Peers pass to all workers like pages."""
STORY = "/story"
"""What the workers ask each other for: the stories of one id, perhaps with captured bodies."""
REPLAY = "/replay"
"""A captured request is served again by the worker that holds it."""
LONG_S: Mapping[str, float] = MappingProxyType({RELOAD: 30.0, STORY: 10.0, REPLAY: 50.0})
"""Timeouts by path, instead of REQUEST_S. To mask 16 MiB of bodies takes 3 s."""

Own = Callable[[str], Awaitable[bytes]]
"""Returns what this worker answers to the other workers, by the path of a page or command; b"" for an unknown one."""


class Peers:
    """Serves the parts of this worker to the other workers, and collects theirs.

    `folder` is created by the supervisor with mode 0700. A worker's socket in it also means that the worker is ready.
    The client sends one line with a target: the path of a page, perhaps with a query. It receives the worker's part:
    Prometheus text, or JSON.
    """

    def __init__(self, folder: Path, name: str, own: Own) -> None:
        self.folder = folder
        self._socket = folder / f"{name}.sock"
        self._own = own
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._answer, self._socket)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def reload(self) -> list[dict[str, Any]]:
        """Let each worker reload its configuration, and return their results. A worker that does not answer refused."""
        # listed before the requests, so that a worker that ends meanwhile is reported
        workers = [path.stem for path in self.folder.glob("*.sock")]
        pages = await self.collect(RELOAD)
        silent = [f"{name}: did not answer; its log has the result" for name in sorted(workers) if name not in pages]
        none = dict.fromkeys(("changed", "needs_restart", "retried", "warnings"), ())
        refused = {"outcome": "refused", "problems": silent, **none}
        return [*map(json.loads, pages.values()), *([refused] if silent else [])]

    async def collect(self, page: str) -> dict[str, bytes]:
        """Return the part of each worker for the path `page`, by its name."""
        paths = sorted(self.folder.glob("*.sock"))
        found = await asyncio.gather(*(self._request(path, page) for path in paths))
        return {path.stem: content for path, content in zip(paths, found, strict=True) if content}

    async def _request(self, path: Path, page: str) -> bytes | None:
        if path == self._socket:  # directly: a full queue of its socket must not hide this worker from itself
            return await self._own(page)
        try:
            async with asyncio.timeout(_timeout_s(page)):
                reader, writer = await asyncio.open_unix_connection(path, limit=PAGE_BYTES)
                try:
                    writer.write(f"{page}\n".encode())
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            LOG.warning("worker_unresponsive", extra={"fields": {"silent": path.stem, "reason": system_reason(error)}})
            return None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # two limits: the time for a slow reload begins when the request has arrived
            async with asyncio.timeout(REQUEST_S):
                page = (await reader.readline()).decode("latin-1").strip()
            async with asyncio.timeout(_timeout_s(page)):
                writer.write(await self._own(page))
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # the other worker closed the connection, or sent no valid line
        finally:
            writer.close()


def _timeout_s(target: str) -> float:
    return LONG_S.get(target.partition("?")[0], REQUEST_S)
