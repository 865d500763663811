"""The MCP server of the tests, and the clients that each test file runs."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.process import Process
from tests.e2e.servers import KEY, RESOURCE, ROOT, CheckedServer, Issuer, get_json, installed, listening

FOLDER = Path(__file__).parent
MODERN = "2026-07-28"
SEEN = {
    "tools": ["announce", "echo", "interrupted", "progress", "slow"],
    "prompt": "Greet Ada.",
    "resource": "amber",
    "progress": [1, 2, 3, "3 steps"],
    "cancelled": True,
    "announced": "words://amber",
    "echoed": True,
    "announced_at_the_end": "words://amber",
}
"""What a tour prints."""
SEEN_IN_HANDSHAKE_ERA = {**SEEN, "continued": "it was continued"}
SCENARIO = re.compile(r"^. ([a-z0-9-]+): (\d+) passed, (\d+) failed", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Client:
    """A client of an official SDK; `command` is without the arguments that each run gets."""

    name: str
    command: tuple[str, ...]
    era: str
    """`legacy`, the era of the handshake, or the version that has none."""

    @property
    def seen(self) -> dict[str, Any]:
        return SEEN if self.era == MODERN else SEEN_IN_HANDSHAKE_ERA


CLIENTS = (
    Client("python 2, handshake", ("python-mcp", "legacy"), "legacy"),
    Client("python 2, stateless", ("python-mcp", MODERN), MODERN),
    Client("python 1", ("python-mcp1", "mcp1"), "legacy"),
    Client("typescript 1", ("node", "sdk", "legacy"), "legacy"),
    Client("typescript 2, handshake", ("node", "client", "legacy"), "legacy"),
    Client("typescript 2, stateless", ("node", "client", MODERN), MODERN),
)
FINDING = (
    Client("python 2, finds the era", ("python-mcp", "auto"), "auto"),
    Client("typescript 2, finds the era", ("node", "client", "auto"), "auto"),
)
"""These ask the server which era it knows, as hosts do."""


@dataclass(frozen=True, slots=True)
class McpServer(CheckedServer):
    """The server of `server.py`."""

    def events(self) -> list[str]:
        events: list[str] = get_json(f"{self.url}/events")
        return events


@contextmanager
def mcp_server(kind: str, issuer: Issuer | None) -> Iterator[McpServer]:
    """Start a server of `kind`. Without an issuer it requires no token."""
    required = [] if issuer is None else [issuer.url, RESOURCE]
    python = installed("python-mcp") / "bin" / "python"
    with Process([python, "-m", "tests.e2e.mcp.server", kind, *required], folder=ROOT) as process:
        yield McpServer(listening(process))


def routes(server: McpServer) -> str:
    """Return the routes of a gatepass with this server as `tools`."""
    return f"""
upstreams:
  unused: {{base_url: "{server.url}/v1", credential: sso}}
models:
  "*": {{upstream: unused}}
mcp:
  tools: {{url: "{server.url}/mcp", credential: sso}}
"""


def node() -> Path:
    return installed("python-node") / "bin" / "node"


def run(command: list[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a home folder of its own, with no way to more than loopback."""
    with tempfile.TemporaryDirectory() as home:
        plain = {"HOME": home, "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "NO_COLOR": "1"}
        return subprocess.run(
            [str(part) for part in command],
            env=plain | {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
            timeout=120,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )


def tour(client: Client, url: str, server: McpServer, seconds: float, key: str = KEY) -> dict[str, Any]:
    """Let `client` do everything at `url`, and return what it saw; raise AssertionError with its output."""
    where, *rest = client.command
    arguments = [*rest, url, key, server.url, str(seconds)]
    if where == "node":
        script = (FOLDER / "tour.mjs").read_text(encoding="utf-8")
        command: list[str | Path] = [node(), "--input-type=module", "-", *arguments]
        done = run(command, cwd=installed("node-mcp"), input=script)
    else:
        done = run([installed(where) / "bin" / "python", FOLDER / "tour.py", *arguments])
    assert done.returncode == 0, f"{client.name}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def inspect(url: str, era: str, *arguments: str, key: str = KEY) -> dict[str, Any]:
    """Run the inspector's command line, and return what it prints."""
    program = installed("node-mcp") / "node_modules" / ".bin" / "mcp-inspector"
    given = ["--transport", "http", "--protocol-era", era, "--format", "json", "--stored-auth-only"]
    header = ["--header", f"Authorization: Bearer {key}"]
    done = run([node(), program, "--cli", "--server-url", url, *given, *header, *arguments])
    assert done.stdout or done.stderr, done.returncode
    printed: dict[str, Any] = json.loads(done.stdout or done.stderr)
    return printed


def conformance(url: str) -> dict[str, tuple[int, int]]:
    """Run the server scenarios of the conformance suite, and return how many checks of each passed and failed."""
    program = installed("node-mcp") / "node_modules" / ".bin" / "conformance"
    done = run([node(), program, "server", "--suite", "all", "--url", url])
    return {name: (int(passed), int(failed)) for name, passed, failed in SCENARIO.findall(done.stdout)}
