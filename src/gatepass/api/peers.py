"""The workers of one supervisor, as far as they know each other: each shows its metrics on a socket in one folder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from gatepass.observe.merge import merged

LOG = logging.getLogger("gatepass.peers")

ASK_S = 1.0
"""A worker that does not answer within this is left out of a scrape."""
EXPOSITION_BYTES = 8 * 1024 * 1024


class Peers:
    """The folder that a supervisor made, mode 0700. A worker's socket in it also says that the worker is ready."""

    def __init__(self, folder: Path, name: str, exposition: Callable[[], bytes]) -> None:
        self._folder = folder
        self._socket = folder / f"{name}.sock"
        self._exposition = exposition
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._tell, self._socket)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def exposition(self) -> bytes:
        """All workers' metrics in one."""
        found = await asyncio.gather(*(self._ask(path) for path in sorted(self._folder.glob("*.sock"))))
        return merged(text for text in found if text is not None)

    async def _ask(self, path: Path) -> bytes | None:
        if path == self._socket:
            return self._exposition()
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_unix_connection(path, limit=EXPOSITION_BYTES)
                try:
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            LOG.warning("worker_silent", extra={"fields": {"worker": path.stem, "reason": type(error).__name__}})
            return None

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                writer.write(self._exposition())
                await writer.drain()
        except (OSError, TimeoutError):
            return  # who asked has left
        finally:
            writer.close()
