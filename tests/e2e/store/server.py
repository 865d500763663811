"""A real Valkey or Redis server on a free port, which tests can kill and start again."""

from pathlib import Path
from typing import Any, Self

from tests.e2e.servers import installed
from tests.integration.store.real_server import RealServer

PASSWORD = "password-of-the-store"


class StoreServer(RealServer):
    """Use it in a `with` statement. A kill loses its data. `dump` returns all data as a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, str(installed("store") / "server"), password=PASSWORD)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def settings(self, **more: Any) -> dict[str, Any]:
        return super().settings(password=PASSWORD, **more)

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()

    def limit(self, maxmemory: int) -> None:
        """Let it reject every write, as a server at its memory limit does; 0 ends this."""
        with self.client() as client:
            client.config_set("maxmemory", str(maxmemory))

    def add_user(self, rules: list[str]) -> None:
        """Create a user. `rules`: the words after `user` in a line of an ACL file."""
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", *rules)

    def memory_bytes(self) -> dict[bytes, int]:
        """Return the memory of each key by its name."""
        with self.client() as client:
            return {key: client.memory_usage(key) for key in client.scan_iter()}

    def dump(self) -> bytes:
        with self.client() as client:
            client.save()
        return (self.folder / "dump.rdb").read_bytes()
