"""buildah and podman with a separate storage, so that images and containers of the machine stay unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
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

# the settings of a hardened cluster: read-only root, no capabilities, a uid without a passwd entry
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
    """A command of the engine failed. The text contains the command and its output."""


def missing() -> str | None:
    """Return why this machine cannot build and run an image, or None."""
    if os.geteuid() != 0:
        return "containers are built and run as root here"
    absent = [name for name in TOOLS if shutil.which(name) is None]
    return f"{', '.join(absent)} not found: run `make e2e-system`" if absent else None


@dataclass(frozen=True, slots=True)
class Engine:
    """`store` holds images and containers; `scratch` is the working directory (conmon leaves files there)."""

    store: Path
    scratch: Path

    def build(self, context: Path, tag: str, *options: str) -> str:
        """Build `context`/Dockerfile as `tag` with more options of buildah, and return the name of its base image."""
        environment = os.environ | {"CONTAINER_STORE": str(self.store)}
        output = self._call([str(HERE / "build.sh"), str(context), tag, *options], BUILD_S, environment).stdout
        return output.strip().rpartition(" on ")[2]

    def podman(self, *arguments: str, timeout_s: float = COMMAND_S, typed: str | None = None) -> str:
        """Run one podman command, with `typed` as its input, and return its standard output; raise EngineFailed."""
        return self._call(self._podman(arguments), timeout_s, typed=typed).stdout.strip()

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        objects: list[dict[str, Any]] = json.loads(self.podman(kind, "inspect", name))
        return objects[0]

    def layers_bytes(self, image: str) -> list[int]:
        """Return the compressed size of each layer, as a registry would store it."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            self.podman("push", "--quiet", "--compression-format=gzip", image, f"oci:{folder}:image")
            blobs = Path(folder) / "blobs/sha256"
            (listed,) = json.loads((Path(folder) / "index.json").read_text())["manifests"]
            manifest = json.loads((blobs / listed["digest"].removeprefix("sha256:")).read_text())
        return [int(layer["size"]) for layer in manifest["layers"]]

    def added_bytes(self, image: str, base: str) -> int:
        """Return the compressed size of the layers of `image` above those of `base`."""
        return sum(self.layers_bytes(image)[len(self.inspect("image", base)["RootFS"]["Layers"]) :])

    def once(self, image: str, *command: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run `command` to its end in a new hardened container. Any exit code is accepted."""
        arguments = ("run", "--rm", "--network=none", *HARDENED, *LIMITS, *options, image, *command)
        return subprocess.run(
            self._podman(arguments), cwd=self.scratch, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )

    def start(
        self, image: str, name: str, *, environment: Mapping[str, str], network: str, options: Sequence[str] = ()
    ) -> Container:
        """Start a hardened container in the background. The caller removes it."""
        settings = [f"--env={key}={value}" for key, value in environment.items()]
        identity = ("--detach", f"--name={name}", f"--network={network}")
        self.podman("run", *identity, *HARDENED, *LIMITS, *settings, *options, image)
        return Container(self, name)

    def _podman(self, arguments: Sequence[str]) -> list[str]:
        storage = ["--storage-driver=overlay", f"--root={self.store / 'store'}", f"--runroot={self.store / 'run'}"]
        # crun, the default, fails if cgroups v1 and v2 are mounted together; cgroupfs works without systemd
        runtime = [f"--tmpdir={self.store / 'tmp'}", f"--runtime={shutil.which('runc')}", "--cgroup-manager=cgroupfs"]
        return ["podman", "--log-level=fatal", *storage, *runtime, *arguments]

    def _call(
        self,
        command: list[str],
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        *,
        typed: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        completed = subprocess.run(
            command, cwd=self.scratch, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
            input=typed,
        )  # fmt: skip
        if completed.returncode != 0:
            raise EngineFailed(
                f"{' '.join(command)}: exit code {completed.returncode}\n{completed.stdout}{completed.stderr}"
            )
        return completed


@dataclass(frozen=True, slots=True)
class Container:
    engine: Engine
    name: str

    def run(self, *command: str) -> str:
        """Run a command in the running container and return its output; raise EngineFailed."""
        return self.engine.podman("exec", self.name, *command)

    def is_running(self) -> bool:
        return bool(self.engine.inspect("container", self.name)["State"]["Running"])

    def is_healthy(self) -> bool:
        """Run the HEALTHCHECK of the image and return whether it succeeds."""
        try:
            self.engine.podman("healthcheck", "run", self.name)
        except EngineFailed:
            return False
        return True

    def wait_healthy(self, timeout_s: float) -> None:
        """Wait until HEALTHCHECK succeeds; raise EngineFailed with the log."""
        with suppress(TimeoutError):
            if block_until(lambda: "healthy" if self.is_healthy() else not self.is_running(), timeout_s) == "healthy":
                return
        raise EngineFailed(f"{self.name} did not become healthy within {timeout_s} s:\n{self.log()}")

    @property
    def pid(self) -> int:
        """The process id of the first process in the namespace of this machine."""
        return int(self.engine.inspect("container", self.name)["State"]["Pid"])

    def signal(self, name: str) -> None:
        self.engine.podman("kill", f"--signal={name}", self.name)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit code; raise subprocess.TimeoutExpired."""
        return int(self.engine.podman("wait", self.name, timeout_s=timeout_s))

    def log(self) -> str:
        command = self.engine._podman(("logs", self.name))
        completed = subprocess.run(
            command, cwd=self.engine.scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
        return completed.stdout

    def remove(self) -> None:
        self.engine.podman("rm", "--force", "--time=0", "--ignore", self.name)
