"""A real Valkey or Redis server on a free port, which tests can kill and start again."""

import os
import signal
import socket
from pathlib import Path
from typing import Any, Self

from valkey import Valkey

from tests.e2e.process import Process
from tests.e2e.servers import installed

PASSWORD = "password-of-the-store"
READY_S = 10.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


class StoreServer:
    """Use it in a `with` statement. A kill loses its data. `dump` returns all data as a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    @property
    def settings(self) -> dict[str, Any]:
        """The `store` settings for this server."""
        url = f"valkey://127.0.0.1:{self.port}/0"
        return {"url": url, "password": PASSWORD, "encryption_key": "an-encryption-key-for-the-store-of-the-tests"}

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.stop()

    def start(self) -> None:
        self._process = self._start()

    def empty(self) -> None:
        with self._client() as client:
            client.flushall()

    def fill(self) -> None:
        """Let it reject every write, as a server at its memory limit does."""
        with self._client() as client:
            client.config_set("maxmemory", "1")

    def unfill(self) -> None:
        with self._client() as client:
            client.config_set("maxmemory", "0")

    def add_user(self, rules: list[str]) -> None:
        """Create a user. `rules`: the words after `user` in a line of an ACL file."""
        with self._client() as client:
            client.execute_command("ACL", "SETUSER", *rules)

    def memory_bytes(self) -> dict[bytes, int]:
        """Return the memory of each key by its name."""
        with self._client() as client:
            return {key: client.memory_usage(key) for key in client.scan_iter()}

    def dump(self) -> bytes:
        with self._client() as client:
            client.save()
        return (self._folder / "dump.rdb").read_bytes()

    def _client(self) -> Valkey:
        return Valkey(host="127.0.0.1", port=self.port, password=PASSWORD)

    def _start(self) -> Process:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "requirepass": PASSWORD,
            "save": "",
            "dir": str(self._folder),
            "rdbcompression": "no",
        }
        command: list[str | Path] = [installed("store") / "server"]
        for name, value in options.items():
            command += [f"--{name}", value]
        process = Process(command)
        process.wait_for("Ready to accept connections", READY_S)
        return process
