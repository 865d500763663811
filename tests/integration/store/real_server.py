"""A real Valkey or Redis server on a free port, which tests can stop, empty, kill and start again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valkey import Valkey
from valkey.exceptions import ValkeyError

E2E = Path(__file__).parents[3] / ".e2e" / "store"
PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server") or shutil.which("server", path=E2E)
"""None: the tests skip in `make test`, and `make e2e` runs them with the server that it installs in E2E."""
KEY = "an-encryption-key-for-the-store-of-the-tests"
READY_S = 60.0


@dataclass
class RealServer:
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def settings(self, **more: Any) -> dict[str, Any]:
        """The `store` of a configuration. By default it waits longer than a busy machine needs."""
        return {"url": f"valkey://127.0.0.1:{self.port}/0", "encryption_key": KEY, "timeout_s": 5.0, **more}

    def client(self) -> Valkey:
        return Valkey(host="127.0.0.1", port=self.port)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def start(self) -> None:
        """Start it, on the same port as before."""
        while True:
            if not self.port:
                with socket.create_server(("127.0.0.1", 0)) as listening:
                    self.port = listening.getsockname()[1]
            where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
            self.process = subprocess.Popen([str(PROGRAM), "--save", "", *where], stdout=subprocess.DEVNULL)
            until_s = time.monotonic() + READY_S
            while self.process.poll() is None and time.monotonic() < until_s:
                try:
                    with self.client() as client:
                        client.ping()
                except (ValkeyError, OSError):
                    time.sleep(0.02)
                else:
                    return
            self.stop()
            self.port = 0  # another program took it

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def real_server(folder: Path) -> Iterator[RealServer]:
    server = RealServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
