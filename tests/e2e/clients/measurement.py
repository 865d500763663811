"""Run the real clients against the strict upstream, directly and through gatepass."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, get_args

from gatepass.config.access import KeyOperation
from tests.e2e.clients.assessment import Result, assess
from tests.e2e.clients.program import Program
from tests.e2e.clients.scenario import Kind, Scenario, scenarios
from tests.e2e.clients.upstream import TOKEN
from tests.e2e.process import Process
from tests.e2e.quirks.assessment import Assessment, Outcome
from tests.e2e.servers import KEY, ROOT, get_json, installed, listening, serve

CHATS: tuple[Kind, ...] = ("chat", "tools", "picture", "extra_parameter", "rounds")
VECTORS: tuple[Kind, ...] = ("embed", "embed_many")
MEDIA: tuple[Kind, ...] = ("transcribe", "synthesize_speech", "generate_image", "moderate", "files")
ALL_KINDS: tuple[Kind, ...] = ("models", "completions", "responses", *CHATS, *VECTORS, *MEDIA)


@dataclass(frozen=True, slots=True)
class Client(Program):
    package: str = ""
    """The package whose version the table shows."""
    kinds: tuple[Kind, ...] = ALL_KINDS
    reports: frozenset[str] = frozenset(("finish", "total"))
    """What the client also reports: the finish reason, the total of tokens."""

    def version(self) -> str:
        if self.is_node:
            package = installed(self.folder) / "node_modules" / self.package / "package.json"
            return str(json.loads(package.read_text(encoding="utf-8"))["version"])
        script = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return subprocess.check_output([installed(self.folder) / "bin" / "python", "-c", script], text=True).strip()


CLIENTS = (
    Client("openai for Python, 3", "python-client", "try_openai.py", package="openai"),
    Client("openai for Python, 2", "python-openai2", "try_openai.py", package="openai"),
    Client("openai for Python, 1", "python-openai1", "try_openai.py", package="openai"),
    Client("openai for Node, 7", "node-openai7", "try_openai.mjs", package="openai", has_newer_node=True),
    Client("openai for Node, 6", "node-client", "try_openai.mjs", package="openai"),
    Client("AI SDK 7, openai-compatible", "node-ai-sdk7", "try_ai_sdk.mjs", package="@ai-sdk/openai-compatible",
           kinds=("completions", *CHATS, *VECTORS), has_newer_node=True),
    Client("AI SDK 6, openai-compatible", "node-ai-sdk", "try_ai_sdk.mjs", package="@ai-sdk/openai-compatible",
           kinds=("completions", *CHATS, *VECTORS)),
    Client("langchain-openai", "python-langchain", "try_langchain.py", package="langchain-openai",
           kinds=(*CHATS, *VECTORS, "responses")),
    Client("LlamaIndex, OpenAILike", "python-llama-index", "try_llama_index.py",
           package="llama-index-llms-openai-like", kinds=(*CHATS, *VECTORS), reports=frozenset()),
    Client("openai-agents with MCP", "python-agents", "try_agents.py", package="openai-agents",
           kinds=(*CHATS, "responses"), reports=frozenset(("total",))),
    Client("LiteLLM", "python-litellm", "try_litellm.py", package="litellm", kinds=(*CHATS, *VECTORS, "rerank")),
    Client("Cohere, v1", "python-cohere", "try_cohere.py", ("v1",), package="cohere", kinds=("rerank",)),
    Client("Cohere, v2", "python-cohere", "try_cohere.py", ("v2",), package="cohere", kinds=("rerank",)),
)  # fmt: skip
Results = Mapping[Scenario, Result]
Assessments = Mapping[Scenario, Assessment]


def run(client: Client, url: str, key: str, chosen: Sequence[Scenario]) -> Results:
    """Run `chosen` with `client` and return the results."""
    given = [scenario.inputs() for scenario in chosen]
    return dict(zip(chosen, client.run(url, given, key=key), strict=True))


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
            # a key without `operations` opens no files
            "access": {"keys": [{"name": "clients", "hash": f"sha256:{hashed}", "operations": get_args(KeyOperation)}]},
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

    def measure(self, client: Client) -> Self:
        """Measure `client` once, and return both paths. Each client gets a new gatepass without learned rules."""
        if client.title not in self.via_gatepass.assessments:
            with ThreadPoolExecutor(2) as pool:
                futures = [pool.submit(self._measure_direct, client), pool.submit(self._measure_via_gatepass, client)]
            for future in futures:
                future.result()
        return self

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
