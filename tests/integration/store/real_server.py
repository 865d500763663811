"""A real Valkey or Redis server on a free port, which tests can stop, empty, kill and start again."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from valkey import Valkey
from valkey.exceptions import ValkeyError

from tests.serving import free_port

E2E = Path(__file__).parents[3] / ".e2e" / "store"
INSTALLED = {name: shutil.which(name) for name in ("valkey-server", "redis-server")}
if not any(INSTALLED.values()):
    INSTALLED["valkey-server"] = shutil.which("server", path=E2E)  # `make e2e` installs it where none of both is
"""The program of each server, or None. Tests run with each that is installed, and `make test` names the others."""
KEY = "an-encryption-key-for-the-store-of-the-tests"
READY_S = 60.0


@dataclass
class RealServer:
    folder: Path
    program: str
    port: int = 0
    password: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def settings(self, **more: Any) -> dict[str, Any]:
        """The `store` of a configuration."""
        return {"url": f"valkey://127.0.0.1:{self.port}/0", "encryption_key": KEY, **more}

    def client(self) -> Valkey:
        return Valkey(host="127.0.0.1", port=self.port, password=self.password)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def start(self) -> None:
        """Start it, on the same port as before."""
        while True:
            if not self.port:
                self.port = free_port()
            where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
            options = ["--save", "", "--rdbcompression", "no", "--requirepass", self.password or ""]
            self.process = subprocess.Popen([self.program, *options, *where], stdout=subprocess.DEVNULL)
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
def real_server(folder: Path, name: str | None = None) -> Iterator[RealServer]:
    """Run the server of this name, or the first that is installed. Skip the test if it is not installed."""
    program = INSTALLED[name] if name else next(filter(None, INSTALLED.values()))
    if program is None:
        pytest.skip(f"{name} is not installed")
    server = RealServer(folder, program)
    server.start()
    try:
        yield server
    finally:
        server.stop()
