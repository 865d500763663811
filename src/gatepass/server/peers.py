"""Exchange of pages between the workers of one supervisor, over Unix sockets in a shared folder."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatepass.errors import system_reason
from gatepass.observability.metrics import merge_expositions

LOG = logging.getLogger("gatepass.peers")

REQUEST_S = 1.0
"""Timeout for the page of one worker. A worker that does not answer in time is omitted."""
PAGE_BYTES = 8 * 1024 * 1024
METRICS, STATUS, LEARNED, RELOAD = "metrics", "status", "learned", "reload"
RELOAD_S = 30.0
"""Timeout for a reload. It is longer than the reload itself may take."""


Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OwnPages:
    """What this worker answers to the other workers."""

    metrics: Callable[[], Awaitable[bytes]] = field(repr=False)
    """The Prometheus text."""
    status: Callable[[], Mapping[str, Any]]
    learned: Callable[[], Rows]
    reload: Callable[[], Awaitable[Mapping[str, Any]]]
    """Reload the configuration and return the result."""


class Peers:
    """Serves the pages of this worker to the other workers, and collects theirs.

    `folder` is created by the supervisor with mode 0700. A worker's socket in it also means that the worker is ready.
    The client sends one line with the name of a page. It receives the page: Prometheus text, or JSON.
    """

    def __init__(self, folder: Path, name: str, own: OwnPages) -> None:
        self._folder = folder
        self._socket = folder / f"{name}.sock"
        self._own = own
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._answer, self._socket)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def exposition(self) -> bytes:
        """Return the merged metrics of all workers."""
        return await asyncio.to_thread(merge_expositions, (await self._request_all(METRICS)).values())

    async def statuses(self) -> dict[str, Any]:
        """Return the status of each worker by its name."""
        return {name: json.loads(page) for name, page in (await self._request_all(STATUS)).items()}

    async def learned(self) -> list[Rows]:
        """Return the learned rules of each worker."""
        return [json.loads(page) for page in (await self._request_all(LEARNED)).values()]

    async def reload(self) -> list[dict[str, Any]]:
        """Let each worker reload its configuration, and return their results. Silence counts as a refusal."""
        workers = [path.stem for path in self._folder.glob("*.sock")]
        pages = await self._request_all(RELOAD)
        silent = [f"{name}: did not answer; its log has the result" for name in sorted(workers) if name not in pages]
        refused = {"outcome": "refused", "changed": [], "needs_restart": [], "problems": silent}
        return [*map(json.loads, pages.values()), *([refused] if silent else [])]

    async def _request_all(self, page: str) -> dict[str, bytes]:
        paths = sorted(self._folder.glob("*.sock"))
        found = await asyncio.gather(*(self._request(path, page) for path in paths))
        return {path.stem: content for path, content in zip(paths, found, strict=True) if content}

    async def _request(self, path: Path, page: str) -> bytes | None:
        if path == self._socket:
            return await self._page(page)
        try:
            async with asyncio.timeout(RELOAD_S if page == RELOAD else REQUEST_S):
                reader, writer = await asyncio.open_unix_connection(path, limit=PAGE_BYTES)
                try:
                    writer.write(f"{page}\n".encode())
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            LOG.warning("worker_unresponsive", extra={"fields": {"silent": path.stem, "reason": system_reason(error)}})
            return None

    async def _page(self, page: str) -> bytes:
        """Return a page of this worker, b"" for an unknown one."""
        own = self._own
        if page == METRICS:
            return await own.metrics()
        if page == RELOAD:
            return json.dumps(await own.reload()).encode()
        read = {STATUS: own.status, LEARNED: own.learned}.get(page)
        return b"" if read is None else json.dumps(read()).encode()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                page = (await reader.readline()).decode("latin-1").strip()
            async with asyncio.timeout(RELOAD_S if page == RELOAD else REQUEST_S):
                writer.write(await self._page(page))
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # the other worker closed the connection, or sent no valid line
        finally:
            writer.close()
