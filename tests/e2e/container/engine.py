"""buildah and podman with a storage of their own, so that no image or container of the machine is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import block_until

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
TOOLS = ("buildah", "podman", "runc")
BUILD_S = 600.0
COMMAND_S = 60.0

# what a hardened cluster does to a container: no writable root, no capability, a uid that nobody knows
HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--user=123456:0",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
# runc under podman 4.3 fails on the limits of an unlimited root
LIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096")


class EngineFailed(AssertionError):
    """A command of the engine ended badly; the text holds the command and all it said."""


def missing() -> str | None:
    """What this machine lacks to build and run an image, as a sentence, or None."""
    if os.geteuid() != 0:
        return "containers are built and run as root here"
    absent = [name for name in TOOLS if shutil.which(name) is None]
    return f"{', '.join(absent)} not found: run `make e2e-system`" if absent else None


@dataclass(frozen=True, slots=True)
class Engine:
    """`store` holds images and containers; `scratch` is the working directory (conmon leaves files there)."""

    store: Path
    scratch: Path

    def build(self, context: Path, tag: str) -> str:
        """Build `context`/Dockerfile as `tag`; the name of the base it stands on."""
        environment = os.environ | {"CONTAINER_STORE": str(self.store)}
        said = self._call([str(HERE / "build.sh"), str(context), tag], BUILD_S, environment).stdout
        return said.strip().rpartition(" on ")[2]

    def podman(self, *arguments: str, timeout_s: float = COMMAND_S) -> str:
        """Standard output of one podman command; raises EngineFailed."""
        return self._call(self._podman(arguments), timeout_s).stdout.strip()

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        described: list[dict[str, Any]] = json.loads(self.podman(kind, "inspect", name))
        return described[0]

    def once(self, image: str, *command: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run `command` in a hardened container of its own to its end, whatever its exit code."""
        arguments = ("run", "--rm", "--network=none", *HARDENED, *LIMITS, *options, image, *command)
        return subprocess.run(
            self._podman(arguments), cwd=self.scratch, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )

    def start(
        self, image: str, name: str, *, environment: Mapping[str, str], network: str, options: Sequence[str] = ()
    ) -> Container:
        """A hardened container that runs behind; the caller removes it."""
        settings = [f"--env={key}={value}" for key, value in environment.items()]
        place = ("--detach", f"--name={name}", f"--network={network}")
        self.podman("run", *place, *HARDENED, *LIMITS, *settings, *options, image)
        return Container(self, name)

    def _podman(self, arguments: Sequence[str]) -> list[str]:
        place = ["--storage-driver=overlay", f"--root={self.store / 'store'}", f"--runroot={self.store / 'run'}"]
        # crun, podman's own choice, fails where cgroups v1 and v2 are mounted together; there is no systemd to ask
        runtime = [f"--tmpdir={self.store / 'tmp'}", f"--runtime={shutil.which('runc')}", "--cgroup-manager=cgroupfs"]
        return ["podman", "--log-level=fatal", *place, *runtime, *arguments]

    def _call(
        self, command: list[str], timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.scratch, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise EngineFailed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done


@dataclass(frozen=True, slots=True)
class Container:
    engine: Engine
    name: str

    def is_running(self) -> bool:
        return bool(self.engine.inspect("container", self.name)["State"]["Running"])

    def is_healthy(self) -> bool:
        """What the image's own HEALTHCHECK says now."""
        try:
            self.engine.podman("healthcheck", "run", self.name)
        except EngineFailed:
            return False
        return True

    def wait_healthy(self, timeout_s: float) -> float:
        """Seconds until the image's own HEALTHCHECK agreed; raises EngineFailed with the log where it never did."""
        began = time.monotonic()
        with suppress(TimeoutError):
            if block_until(lambda: "healthy" if self.is_healthy() else not self.is_running(), timeout_s) == "healthy":
                return time.monotonic() - began
        raise EngineFailed(f"{self.name} did not become healthy within {timeout_s} s:\n{self.log()}")

    def resident_bytes(self) -> int:
        """The memory that its first process holds now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts."""
        return int(self.engine.inspect("container", self.name)["State"]["Pid"])

    def signal(self, name: str) -> None:
        self.engine.podman("kill", f"--signal={name}", self.name)

    def wait(self, timeout_s: float) -> int:
        """The exit code, when it has ended; raises subprocess.TimeoutExpired."""
        return int(self.engine.podman("wait", self.name, timeout_s=timeout_s))

    def log(self) -> str:
        command = self.engine._podman(("logs", self.name))
        done = subprocess.run(
            command, cwd=self.engine.scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
        return done.stdout

    def remove(self) -> None:
        self.engine.podman("rm", "--force", "--time=0", "--ignore", self.name)
