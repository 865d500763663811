"""A client program of `runners`, and one run of it with the SDK of an installation in `.e2e/`."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.servers import KEY, installed

RUNNERS = Path(__file__).parent / "runners"
CLIENT_S = 120.0
FOREIGN = ("OPENAI_", "ANTHROPIC_", "LANGCHAIN_", "LANGSMITH_", "LITELLM_", "CO_", "COHERE_", "GATEPASS_")
"""Prefixes of variables that configure a client or gatepass. The programs do not inherit them."""


@dataclass(frozen=True, slots=True)
class Program:
    title: str
    folder: str
    """The name of the installation in `.e2e/`."""
    runner: str
    """The name of the file in `runners`."""
    arguments: tuple[str, ...] = ()
    has_newer_node: bool = False
    """Whether it requires Node.js 22 or newer."""

    @property
    def is_node(self) -> bool:
        return self.runner.endswith(".mjs")

    def run(self, url: str, given: Any, *, key: str = KEY, timeout_s: float = CLIENT_S) -> Any:
        """Run it with `given` as its input, and return the JSON that it prints; raise AssertionError with its errors.

        A program for Node is read from stdin, so that it finds its packages in the working directory.
        """
        folder, script = installed(self.folder), RUNNERS / self.runner
        node = installed("python-node") / "bin" / "node" if self.has_newer_node else "node"
        command = [node, "--input-type=module", "-"] if self.is_node else [folder / "bin" / "python", script]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        keys = {"OPENAI_API_KEY": key, "ANTHROPIC_API_KEY": key, "NO_PROXY": "127.0.0.1"}
        urls = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(given, file)
            file.flush()
            done = subprocess.run(
                [*map(str, command), *self.arguments],
                env=inherited | keys | urls | {"INPUT": file.name, "RUNNERS": str(RUNNERS)},
                cwd=folder,
                input=script.read_bytes() if self.is_node else b"",
                timeout=timeout_s,
                capture_output=True,
                check=False,
            )
        assert done.returncode == 0, f"{self.title}:\n{done.stderr.decode()[-4000:]}"
        return json.loads(done.stdout)
