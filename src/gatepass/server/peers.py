"""The workers of one supervisor, as far as they know each other: each shows its pages on a socket in one folder."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gatepass.observability.metrics import merged

LOG = logging.getLogger("gatepass.peers")

ASK_S = 1.0
"""A worker that does not answer within this is left out."""
PAGE_BYTES = 8 * 1024 * 1024
METRICS, STATUS, LEARNED = "metrics", "status", "learned"


Rows = list[dict[str, Any]]


class Peers:
    """The folder that a supervisor made, mode 0700. A worker's socket in it also says that the worker is ready.

    Who connects says a line with the name of a page and is told that page: Prometheus text, or JSON.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        exposition: Callable[[], bytes],
        status: Callable[[], Mapping[str, Any]],
        learned: Callable[[], Rows],
    ) -> None:
        self._folder = folder
        self._socket = folder / f"{name}.sock"
        self._pages: Mapping[str, Callable[[], bytes]] = {
            METRICS: exposition,
            STATUS: lambda: json.dumps(status()).encode(),
            LEARNED: lambda: json.dumps(learned()).encode(),
        }
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._tell, self._socket)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def exposition(self) -> bytes:
        """All workers' metrics in one."""
        return merged((await self._asked(METRICS)).values())

    async def statuses(self) -> dict[str, Any]:
        """Each worker's status by its name."""
        return {name: json.loads(page) for name, page in (await self._asked(STATUS)).items()}

    async def learned(self) -> list[Rows]:
        """Each worker's lessons."""
        return [json.loads(page) for page in (await self._asked(LEARNED)).values()]

    async def _asked(self, page: str) -> dict[str, bytes]:
        paths = sorted(self._folder.glob("*.sock"))
        found = await asyncio.gather(*(self._ask(path, page) for path in paths))
        return {path.stem: said for path, said in zip(paths, found, strict=True) if said}

    async def _ask(self, path: Path, page: str) -> bytes | None:
        if path == self._socket:
            return self._pages[page]()
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_unix_connection(path, limit=PAGE_BYTES)
                try:
                    writer.write(f"{page}\n".encode())
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            LOG.warning("worker_unresponsive", extra={"fields": {"silent": path.stem, "reason": type(error).__name__}})
            return None

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                page = self._pages.get((await reader.readline()).decode("latin-1").strip())
                writer.write(page() if page is not None else b"")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # who asked has left, or said no line
        finally:
            writer.close()
