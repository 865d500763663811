"""The canned upstream, a gatepass in front of it, and the real clients on every row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.process import Process
from tests.e2e.quirks.assessment import Mark, Verdict, judged
from tests.e2e.quirks.row import Row, Way
from tests.e2e.quirks.rows import ROWS
from tests.e2e.servers import ROOT, get_json, listening, made

HERE = Path(__file__).parent
CLIENT_S = 120.0
FOREIGN = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_")
"""What no client shall find in its environment."""
Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    title: str
    made: str
    """Its part of .e2e/."""
    script: str
    is_node: bool = False

    def command(self) -> list[str | Path]:
        if self.is_node:
            return ["node", "--input-type=module", "-"]
        return [made(self.made) / "bin" / "python", HERE / "clients" / self.script]


CLIENTS = (
    Client("openai-python 3", "python-client", "ask_openai.py"),
    Client("openai-python 2", "python-openai2", "ask_openai.py"),
    Client("openai-node 6", "node-client", "ask_openai.mjs", is_node=True),
    Client("langchain-openai", "python-langchain", "ask_langchain.py"),
    Client("AI SDK", "node-ai-sdk", "ask_ai_sdk.mjs", is_node=True),
)
CANNOT_ASK = {
    ("langchain-openai", "token-ids"),
    ("langchain-openai", "token-ids-empty"),
    ("AI SDK", "token-ids"),
    ("AI SDK", "token-ids-empty"),
}
"""Rows whose question a client has no way to ask."""

Calls = Sequence[tuple[Row, Way]]
Verdicts = dict[tuple[str, Way], Verdict]
"""By the model's name and the way."""


def calls_of(client: Client, rows: Sequence[Row] = ROWS) -> Calls:
    return [(row, way) for row in rows if (client.title, row.model) not in CANNOT_ASK for way in row.ways]


def run(client: Client, url: str, calls: Calls) -> Verdicts:
    """Let `client` make all of `calls`. Raises AssertionError with its stderr where it fails itself."""
    asked = [{"model": row.model, "way": way, "body": row.asked(way), "repeats": row.repeats} for row, way in calls]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as listed:
        json.dump(asked, listed)
        listed.flush()
        plain = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        own = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}
        node = {"CALLS": listed.name, "BESIDE": str(HERE / "clients")}
        done = subprocess.run(
            [str(part) for part in client.command()],
            env=plain | own | node,
            cwd=made(client.made) if client.is_node else None,
            input=(HERE / "clients" / client.script).read_bytes() if client.is_node else json.dumps(asked).encode(),
            timeout=CLIENT_S,
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, f"{client.title}:\n{done.stderr.decode()[-4000:]}"
    seen = json.loads(done.stdout)
    return {(row.model, way): judged(row, way, one) for (row, way), one in zip(calls, seen, strict=True)}


@contextmanager
def upstream() -> Iterator[str]:
    with Process([sys.executable, "-m", "tests.e2e.quirks.upstream"], folder=ROOT) as process:
        yield listening(process)


def configuration(url: str) -> Config:
    """The ways to the upstream, by the rows' own wishes. Each row about tokens has tokens of its own."""
    opted = ["tool_choice", "response_format", "max_tokens", "system_into_user", "merge_roles"]
    renewed = [row.model for row in ROWS if row.route == "renewed"]
    return {
        "credentials": {model: {"type": "http_json", "url": f"{url}/token"} for model in renewed},
        "upstreams": {
            "main": {"base_url": f"{url}/v1"},
            "opted": {"base_url": f"{url}/v1", "learn_also": opted},
            **{model: {"base_url": f"{url}/v1", "credential": model} for model in renewed},
        },
        "models": {
            "*": {"upstream": "main"},
            **{row.model: {"upstream": "opted"} for row in ROWS if row.route == "opted"},
            **{model: {"upstream": model} for model in renewed},
        },
    }


def by_ragflow(config: Config, url: str) -> None:
    config["upstreams"]["ragflow"] = {"base_url": url, "dialect": "ragflow"}
    config["models"] |= {row.model: {"upstream": "ragflow"} for row in ROWS if row.route == "ragflow"}


def by_cumulative(config: Config, url: str) -> None:
    config["upstreams"]["cumulative"] = {"base_url": f"{url}/v1", "repair": {"cumulative": True}}
    config["models"]["cumulative"] = {"upstream": "cumulative"}


SPECIAL: tuple[Callable[[Config, str], None], ...] = (by_ragflow, by_cumulative)
"""What a gatepass that does not know a setting goes without: its rows then go the plain way."""


def _gatepass(*arguments: str | Path) -> list[str | Path]:
    return [made("python-gatepass") / "bin" / "python", "-m", "gatepass", *arguments]


def _environment() -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    return plain | {"PYTHONPATH": str(ROOT / "src")}


def _accepted(config: Config, path: Path) -> bool:
    path.write_text(json.dumps(config), encoding="utf-8")
    check = [str(part) for part in _gatepass("check", "--config", path)]
    return subprocess.run(check, env=_environment(), capture_output=True, timeout=30, check=False).returncode == 0


@contextmanager
def gatepass(folder: Path, url: str) -> Iterator[str]:
    path = folder / "gatepass.json"
    config = configuration(url)
    for special in SPECIAL:
        tried = json.loads(json.dumps(config))
        special(tried, url)
        config = tried if _accepted(tried, path) else config
    path.write_text(json.dumps(config), encoding="utf-8")
    with Process(_gatepass("serve", "--config", path, "--port", "0"), environment=_environment()) as process:
        try:
            yield listening(process)
        finally:
            (folder / "gatepass.log").write_text(process.output, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Side:
    """One column: what every client saw, by its title, and what the upstream was asked meanwhile."""

    seen: dict[str, Verdicts]
    requests: Counter[str]

    def count(self, mark: Mark) -> int:
        return sum(verdict.mark is mark for verdicts in self.seen.values() for verdict in verdicts.values())


def _column(entrance: str, behind: str, clients: Sequence[Client], rows: Sequence[Row]) -> Side:
    seen: dict[str, Verdicts] = {}
    requests: Counter[str] = Counter()
    for client in clients:
        forget = urllib.request.Request(f"{behind}/forget", b"", method="POST")  # noqa: S310 - loopback
        urllib.request.urlopen(forget, timeout=10).close()  # noqa: S310 - loopback
        seen[client.title] = run(client, entrance, calls_of(client, rows))
        requests.update(get_json(f"{behind}/count"))
    return Side(seen, requests)


def measured(folder: Path, clients: Sequence[Client] = CLIENTS, rows: Sequence[Row] = ROWS) -> tuple[Side, Side]:
    """Both columns: the clients straight at the upstream, and through gatepass."""
    with upstream() as bare, upstream() as behind, gatepass(folder, behind) as entrance, ThreadPoolExecutor(2) as pool:
        raw = pool.submit(_column, bare, bare, clients, rows)
        through = pool.submit(_column, entrance, behind, clients, rows)
        return raw.result(), through.result()
