"""The strict upstream, a gatepass in front of it, and the real clients: straight, and through gatepass."""

from __future__ import annotations

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

from tests.e2e.clients.assessment import Seen, judged
from tests.e2e.clients.scenario import Case, Kind, cases
from tests.e2e.clients.upstream import TOKEN
from tests.e2e.process import Process
from tests.e2e.quirks.assessment import Mark, Verdict
from tests.e2e.servers import KEY, ROOT, get_json, listening, made

RUNNERS = Path(__file__).parent / "runners"
CLIENT_S = 120.0
FOREIGN = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "LITELLM_", "CO_", "COHERE_", "GATEPASS_")
"""Beginnings of variables that would tell a client something else."""
CHATS: tuple[Kind, ...] = ("chat", "tools", "picture", "stray", "rounds")
VECTORS: tuple[Kind, ...] = ("embed", "embed_many")
MEDIA: tuple[Kind, ...] = ("hear", "speak", "draw", "moderate", "files")
EVERYTHING: tuple[Kind, ...] = ("models", "completions", "responses", *CHATS, *VECTORS, *MEDIA)


@dataclass(frozen=True, slots=True)
class Client:
    title: str
    made: str
    """Its part of .e2e/."""
    runner: str
    package: str
    """Whose version stands in the table."""
    kinds: tuple[Kind, ...] = EVERYTHING
    arguments: tuple[str, ...] = ()
    shows: frozenset[str] = frozenset(("finish", "total"))
    """What else can be seen of an answer: why it ended, how many tokens it took."""
    has_newer_node: bool = False
    """It wants a newer Node.js than the installed one may be."""

    @property
    def is_node(self) -> bool:
        return self.runner.endswith(".mjs")

    def command(self) -> list[str | Path]:
        if self.is_node:
            node = made("python-node") / "bin" / "node" if self.has_newer_node else "node"
            return [node, "--input-type=module", "-"]
        return [made(self.made) / "bin" / "python", RUNNERS / self.runner, *self.arguments]

    def version(self) -> str:
        if self.is_node:
            package = made(self.made) / "node_modules" / self.package / "package.json"
            return str(json.loads(package.read_text(encoding="utf-8"))["version"])
        asked = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return subprocess.check_output([made(self.made) / "bin" / "python", "-c", asked], text=True).strip()


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
           (*CHATS, *VECTORS), shows=frozenset()),
    Client("openai-agents with MCP", "python-agents", "try_agents.py", "openai-agents", (*CHATS, "responses"),
           shows=frozenset(("total",))),
    Client("LiteLLM", "python-litellm", "try_litellm.py", "litellm", (*CHATS, *VECTORS, "rerank")),
    Client("Cohere, v1", "python-cohere", "try_cohere.py", "cohere", ("rerank",), ("v1",)),
    Client("Cohere, v2", "python-cohere", "try_cohere.py", "cohere", ("rerank",), ("v2",)),
)  # fmt: skip
Sights = Mapping[Case, Seen]
Verdicts = Mapping[Case, Verdict]


def run(client: Client, url: str, key: str, asked: Sequence[Case]) -> Sights:
    """Let `client` play `asked`. Raises AssertionError with its stderr where it fails itself."""
    told = json.dumps([case.asked() for case in asked])
    with tempfile.NamedTemporaryFile("w", suffix=".json") as listed:
        listed.write(told)
        listed.flush()
        plain = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        own = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key, "NO_PROXY": "127.0.0.1"}
        node = {"CASES": listed.name, "BESIDE": str(RUNNERS)}
        done = subprocess.run(
            [str(part) for part in client.command()],
            env=plain | own | node,
            cwd=made(client.made) if client.is_node else None,
            input=(RUNNERS / client.runner).read_bytes() if client.is_node else told.encode(),
            timeout=CLIENT_S,
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, f"{client.title}:\n{done.stderr.decode()[-4000:]}"
    return dict(zip(asked, json.loads(done.stdout), strict=True))


@contextmanager
def upstream() -> Iterator[str]:
    with Process([sys.executable, "-m", "tests.e2e.clients.upstream"], folder=ROOT) as process:
        yield listening(process)


def configuration(url: str) -> str:
    """Nothing about the models: what each does not take is gatepass's to find out."""
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
class Entrance:
    """Where clients go in, and what is logged there."""

    url: str
    process: Process | None = None

    def traces(self) -> list[str]:
        """Each exception that nobody expected."""
        lines = self.process.output.splitlines() if self.process else []
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [line["trace"] for line in logged if line["event"] == "request_failed"]


@contextmanager
def gatepass(folder: Path, url: str) -> Iterator[Entrance]:
    path = folder / "gatepass.json"
    path.write_text(configuration(url), encoding="utf-8")
    python = made("python-gatepass") / "bin" / "python"
    command: list[str | Path] = [python, "-m", "gatepass", "serve", "--config", path, "--port", "0"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    with Process(command, environment=plain | {"PYTHONPATH": str(ROOT / "src")}) as process:
        yield Entrance(listening(process), process)


@dataclass(frozen=True, slots=True)
class Side:
    """One column: what every client saw of its cases, and what is to be thought of that, by its title."""

    seen: dict[str, Sights] = field(default_factory=dict)
    verdicts: dict[str, Verdicts] = field(default_factory=dict)
    traces: dict[str, list[str]] = field(default_factory=dict)
    answered: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """How many chats and responses the upstream gave, by `"MODEL whole"` and `"MODEL streamed"`."""

    def count(self, mark: Mark) -> int:
        return sum(verdict.mark is mark for verdicts in self.verdicts.values() for verdict in verdicts.values())

    def wrong(self, title: str) -> list[str]:
        """What went wrong with a client, and why."""
        return [
            f"{case.kind} {case.model} {'streamed' if case.streams else 'whole'}: {verdict.mark} {verdict.why}"
            for case, verdict in self.verdicts[title].items()
            if verdict.mark is not Mark.RIGHT
        ]

    def meet(self, client: Client, entrance: Entrance, key: str) -> None:
        title = client.title
        self.seen[title] = run(client, entrance.url, key, cases(*client.kinds))
        self.traces[title] = entrance.traces()
        self.verdicts[title] = {case: judged(case, one, client.shows) for case, one in self.seen[title].items()}


@dataclass(frozen=True, slots=True)
class Street:
    """Straight the clients show the upstream's token, through gatepass their key."""

    folder: Path
    bare: str
    behind: str
    raw: Side = field(default_factory=Side)
    through: Side = field(default_factory=Side)

    def measure(self, client: Client) -> None:
        """Once. Each client meets a gatepass that has learned nothing yet."""
        if client.title not in self.through.verdicts:
            with ThreadPoolExecutor(2) as pool:
                ways = [pool.submit(self._go_straight, client), pool.submit(self._go_through, client)]
            for way in ways:
                way.result()

    def _go_straight(self, client: Client) -> None:
        self.raw.meet(client, Entrance(self.bare), TOKEN)

    def _go_through(self, client: Client) -> None:
        with gatepass(self.folder, self.behind) as entrance:
            self.through.meet(client, entrance, KEY)
        self.through.answered[client.title] = get_json(f"{self.behind}/answered")


@contextmanager
def opened(folder: Path) -> Iterator[Street]:
    """Where nobody went yet; `folder` is for files of gatepass."""
    with upstream() as bare, upstream() as behind:
        yield Street(folder, bare, behind)
