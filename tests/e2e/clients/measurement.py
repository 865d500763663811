"""Run the real clients against the strict upstream, directly and through gatepass."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.clients.assessment import Result, assess
from tests.e2e.clients.scenario import Kind, Scenario, scenarios
from tests.e2e.clients.upstream import TOKEN
from tests.e2e.process import Process
from tests.e2e.quirks.assessment import Assessment, Outcome
from tests.e2e.servers import KEY, ROOT, get_json, installed, listening, serve

RUNNERS = Path(__file__).parent / "runners"


async def sdk_ends(folder: str, runner: str, arguments: Sequence[str], port: int, bound_s: float) -> dict[str, Any]:
    """Run `runner` with the SDK that is installed in `folder`, and return what it prints of the end of each call."""
    script, url = RUNNERS / runner, f"http://127.0.0.1:{port}"
    command: list[str | Path] = ["node", "--input-type=module", "-"]
    if script.suffix == ".py":
        command = [installed(folder) / "bin" / "python", script]
    process = await asyncio.create_subprocess_exec(
        *map(str, command), *arguments,
        env={
            **os.environ, "OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url,
            "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY,
        },
        cwd=installed(folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, _ = await asyncio.wait_for(process.communicate(script.read_bytes()), bound_s)
    ends: dict[str, Any] = json.loads(printed)
    return ends


CLIENT_S = 120.0
FOREIGN = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "LITELLM_", "CO_", "COHERE_", "GATEPASS_")
"""Prefixes of variables that configure a client or gatepass. The processes do not inherit them."""
CHATS: tuple[Kind, ...] = ("chat", "tools", "picture", "extra_parameter", "rounds")
VECTORS: tuple[Kind, ...] = ("embed", "embed_many")
MEDIA: tuple[Kind, ...] = ("transcribe", "synthesize_speech", "generate_image", "moderate", "files")
ALL_KINDS: tuple[Kind, ...] = ("models", "completions", "responses", *CHATS, *VECTORS, *MEDIA)


@dataclass(frozen=True, slots=True)
class Client:
    title: str
    folder: str
    """The name of the installation in `.e2e/`."""
    runner: str
    package: str
    """The package whose version the table shows."""
    kinds: tuple[Kind, ...] = ALL_KINDS
    arguments: tuple[str, ...] = ()
    reports: frozenset[str] = frozenset(("finish", "total"))
    """What the client also reports: the finish reason, the total of tokens."""
    has_newer_node: bool = False
    """Whether it requires Node.js 22 or newer."""

    @property
    def is_node(self) -> bool:
        return self.runner.endswith(".mjs")

    def command(self) -> list[str | Path]:
        if self.is_node:
            node = installed("python-node") / "bin" / "node" if self.has_newer_node else "node"
            return [node, "--input-type=module", "-"]
        return [installed(self.folder) / "bin" / "python", RUNNERS / self.runner, *self.arguments]

    def version(self) -> str:
        if self.is_node:
            package = installed(self.folder) / "node_modules" / self.package / "package.json"
            return str(json.loads(package.read_text(encoding="utf-8"))["version"])
        script = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return subprocess.check_output([installed(self.folder) / "bin" / "python", "-c", script], text=True).strip()


CLIENTS = (
    Client("openai for Python, 3", "python-client", "try_openai.py", "openai"),
    Client("openai for Python, 2", "python-openai2", "try_openai.py", "openai"),
    Client("openai for Python, 1", "python-openai1", "try_openai.py", "openai"),
    Client("openai for Node, 7", "node-openai7", "try_openai.mjs", "openai", has_newer_node=True),
    Client("openai for Node, 6", "node-client", "try_openai.mjs", "openai"),
    Client("AI SDK 7, openai-compatible", "node-ai-sdk7", "try_ai_sdk.mjs", "@ai-sdk/openai-compatible",
           ("completions", *CHATS, *VECTORS), has_newer_node=True),
    Client("AI SDK 6, openai-compatible", "node-ai-sdk", "try_ai_sdk.mjs", "@ai-sdk/openai-compatible",
           ("completions", *CHATS, *VECTORS)),
    Client("langchain-openai", "python-langchain", "try_langchain.py", "langchain-openai",
           (*CHATS, *VECTORS, "responses")),
    Client("LlamaIndex, OpenAILike", "python-llama-index", "try_llama_index.py", "llama-index-llms-openai-like",
           (*CHATS, *VECTORS), reports=frozenset()),
    Client("openai-agents with MCP", "python-agents", "try_agents.py", "openai-agents", (*CHATS, "responses"),
           reports=frozenset(("total",))),
    Client("LiteLLM", "python-litellm", "try_litellm.py", "litellm", (*CHATS, *VECTORS, "rerank")),
    Client("Cohere, v1", "python-cohere", "try_cohere.py", "cohere", ("rerank",), ("v1",)),
    Client("Cohere, v2", "python-cohere", "try_cohere.py", "cohere", ("rerank",), ("v2",)),
)  # fmt: skip
Results = Mapping[Scenario, Result]
Assessments = Mapping[Scenario, Assessment]


def run(client: Client, url: str, key: str, chosen: Sequence[Scenario]) -> Results:
    """Run `chosen` with `client` and return the results; raise AssertionError with stderr if the runner fails."""
    inputs = json.dumps([scenario.inputs() for scenario in chosen])
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(inputs)
        file.flush()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        endpoint = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key, "NO_PROXY": "127.0.0.1"}
        paths = {"SCENARIOS": file.name, "RUNNERS": str(RUNNERS)}
        completed = subprocess.run(
            [str(part) for part in client.command()],
            env=inherited | endpoint | paths,
            cwd=installed(client.folder) if client.is_node else None,
            input=(RUNNERS / client.runner).read_bytes() if client.is_node else inputs.encode(),
            timeout=CLIENT_S,
            capture_output=True,
            check=False,
        )
    assert completed.returncode == 0, f"{client.title}:\n{completed.stderr.decode()[-4000:]}"
    return dict(zip(chosen, json.loads(completed.stdout), strict=True))


@contextmanager
def upstream() -> Iterator[str]:
    with Process([sys.executable, "-m", "tests.e2e.clients.upstream"], folder=ROOT) as process:
        yield listening(process)


def configuration(url: str) -> str:
    """Return a configuration without rules for the models: gatepass learns what each of them rejects."""
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    return json.dumps(
        {
            "credentials": {"fixed": {"type": "static", "token": TOKEN}},
            "upstreams": {"strict": {"base_url": f"{url}/v1", "credential": "fixed"}},
            "models": {"*": {"upstream": "strict"}},
            "access": {"keys": [{"name": "clients", "hash": f"sha256:{hashed}"}]},
        }
    )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The URL that the clients call, and the gatepass process behind it, if any."""

    url: str
    process: Process | None = None

    def traces(self) -> list[str]:
        """Return the tracebacks that gatepass logged."""
        lines = self.process.output.splitlines() if self.process else []
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [line["trace"] for line in logged if line["event"] == "request_failed"]


@contextmanager
def gatepass(folder: Path, url: str) -> Iterator[Endpoint]:
    path = folder / "gatepass.json"
    path.write_text(configuration(url), encoding="utf-8")
    with serve(path) as process:
        yield Endpoint(listening(process), process)


@dataclass(frozen=True, slots=True)
class PathResults:
    """The results over one path, direct or through gatepass, by the title of the client."""

    results: dict[str, Results] = field(default_factory=dict)
    assessments: dict[str, Assessments] = field(default_factory=dict)
    traces: dict[str, list[str]] = field(default_factory=dict)
    answered: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """The number of chats and responses of the upstream, by `"MODEL whole"` and `"MODEL streamed"`."""

    def failures(self, title: str) -> list[str]:
        """Return the scenarios of a client whose result is not right, with the reasons."""
        return [
            f"{scenario.kind} {scenario.model} {'streamed' if scenario.streams else 'whole'}: "
            f"{assessment.outcome} {assessment.reason}"
            for scenario, assessment in self.assessments[title].items()
            if assessment.outcome is not Outcome.RIGHT
        ]

    def measure(self, client: Client, endpoint: Endpoint, key: str) -> None:
        title = client.title
        self.results[title] = run(client, endpoint.url, key, scenarios(*client.kinds))
        self.traces[title] = endpoint.traces()
        self.assessments[title] = {
            scenario: assess(scenario, one, client.reports) for scenario, one in self.results[title].items()
        }


@dataclass(frozen=True, slots=True)
class Measurement:
    """Both paths. Direct calls contain the upstream's token, calls through gatepass contain an API key."""

    folder: Path
    direct_url: str
    upstream_url: str
    direct: PathResults = field(default_factory=PathResults)
    via_gatepass: PathResults = field(default_factory=PathResults)

    def measure(self, client: Client) -> None:
        """Measure `client` once. Each client gets a new gatepass without learned rules."""
        if client.title not in self.via_gatepass.assessments:
            with ThreadPoolExecutor(2) as pool:
                futures = [pool.submit(self._measure_direct, client), pool.submit(self._measure_via_gatepass, client)]
            for future in futures:
                future.result()

    def _measure_direct(self, client: Client) -> None:
        self.direct.measure(client, Endpoint(self.direct_url), TOKEN)

    def _measure_via_gatepass(self, client: Client) -> None:
        with gatepass(self.folder, self.upstream_url) as endpoint:
            self.via_gatepass.measure(client, endpoint, KEY)
        self.via_gatepass.answered[client.title] = get_json(f"{self.upstream_url}/answered")


@contextmanager
def measuring(folder: Path) -> Iterator[Measurement]:
    """Start one upstream for each path. `folder` contains the files of gatepass."""
    with upstream() as direct_url, upstream() as upstream_url:
        yield Measurement(folder, direct_url, upstream_url)
