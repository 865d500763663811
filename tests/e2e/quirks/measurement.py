"""Run the real clients on every row against the scripted upstream, directly and through gatepass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.process import Process
from tests.e2e.quirks.assessment import Assessment, Outcome, assess
from tests.e2e.quirks.row import Mode, Row
from tests.e2e.quirks.rows import ROWS
from tests.e2e.servers import ROOT, get_json, installed, listening, serve

HERE = Path(__file__).parent
CLIENT_S = 120.0
FOREIGN = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_")
"""Prefixes of variables that the clients do not inherit."""
Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    title: str
    folder: str
    """The name of the installation in `.e2e/`."""
    script: str
    is_node: bool = False

    def command(self) -> list[str | Path]:
        if self.is_node:
            return ["node", "--input-type=module", "-"]
        return [installed(self.folder) / "bin" / "python", HERE / "clients" / self.script]


CLIENTS = (
    Client("openai-python 3", "python-client", "ask_openai.py"),
    Client("openai-python 2", "python-openai2", "ask_openai.py"),
    Client("openai-node 6", "node-client", "ask_openai.mjs", is_node=True),
    Client("langchain-openai", "python-langchain", "ask_langchain.py"),
    Client("AI SDK", "node-ai-sdk", "ask_ai_sdk.mjs", is_node=True),
)
UNSUPPORTED = {
    ("langchain-openai", "token-ids"),
    ("langchain-openai", "token-ids-empty"),
    ("AI SDK", "token-ids"),
    ("AI SDK", "token-ids-empty"),
}
"""Rows whose request a client cannot send."""

Calls = Sequence[tuple[Row, Mode]]
Assessments = dict[tuple[str, Mode], Assessment]
"""By the name of the model and the mode."""


def calls_of(client: Client, rows: Sequence[Row] = ROWS) -> Calls:
    return [(row, mode) for row in rows if (client.title, row.model) not in UNSUPPORTED for mode in row.modes]


def run(client: Client, url: str, calls: Calls) -> Assessments:
    """Make all `calls` with `client`; raise AssertionError with stderr if the script fails."""
    calls_json = [
        {"model": row.model, "mode": mode, "body": row.request_body(mode), "repeats": row.repeats}
        for row, mode in calls
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(calls_json, file)
        file.flush()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        endpoint = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}
        paths = {"CALLS": file.name, "CLIENT_FOLDER": str(HERE / "clients")}
        completed = subprocess.run(
            [str(part) for part in client.command()],
            env=inherited | endpoint | paths,
            cwd=installed(client.folder) if client.is_node else None,
            input=(HERE / "clients" / client.script).read_bytes()
            if client.is_node
            else json.dumps(calls_json).encode(),
            timeout=CLIENT_S,
            capture_output=True,
            check=False,
        )
    assert completed.returncode == 0, f"{client.title}:\n{completed.stderr.decode()[-4000:]}"
    results = json.loads(completed.stdout)
    return {(row.model, mode): assess(row, mode, result) for (row, mode), result in zip(calls, results, strict=True)}


@contextmanager
def upstream() -> Iterator[str]:
    with Process([sys.executable, "-m", "tests.e2e.quirks.upstream"], folder=ROOT) as process:
        yield listening(process)


def configuration(url: str) -> Config:
    """Return a configuration with an upstream for each route. Each row about tokens has its own credential."""
    opted = ["tool_choice", "response_format", "max_tokens", "system_into_user", "merge_roles"]
    renewed = [row.model for row in ROWS if row.route == "renewed"]
    return {
        "credentials": {model: {"type": "http_json", "url": f"{url}/token"} for model in renewed},
        "upstreams": {
            "main": {"base_url": f"{url}/v1"},
            "opted": {"base_url": f"{url}/v1", "learn_also": opted},
            "ragflow": {"base_url": url, "dialect": "ragflow"},
            "cumulative": {"base_url": f"{url}/v1", "repair": {"cumulative": True}},
            **{model: {"base_url": f"{url}/v1", "credential": model} for model in renewed},
        },
        "models": {
            "*": {"upstream": "main"},
            **{row.model: {"upstream": row.route} for row in ROWS if row.route in ("opted", "ragflow")},
            "cumulative": {"upstream": "cumulative"},
            **{model: {"upstream": model} for model in renewed},
        },
    }


@contextmanager
def gatepass(folder: Path, url: str) -> Iterator[str]:
    path = folder / "gatepass.json"
    path.write_text(json.dumps(configuration(url)), encoding="utf-8")
    with serve(path) as process:
        yield listening(process)


@dataclass(frozen=True, slots=True)
class PathResults:
    """The results over one path by the title of the client, and the requests of the upstream by model."""

    assessments: dict[str, Assessments]
    requests: Counter[str]

    def count(self, outcome: Outcome) -> int:
        return sum(
            assessment.outcome is outcome
            for assessments in self.assessments.values()
            for assessment in assessments.values()
        )


def _measure_path(url: str, upstream_url: str, rows: Sequence[Row]) -> PathResults:
    assessments: dict[str, Assessments] = {}
    requests: Counter[str] = Counter()
    for client in CLIENTS:
        forget = urllib.request.Request(f"{upstream_url}/forget", b"", method="POST")  # noqa: S310 - loopback
        urllib.request.urlopen(forget, timeout=10).close()  # noqa: S310 - loopback
        assessments[client.title] = run(client, url, calls_of(client, rows))
        requests.update(get_json(f"{upstream_url}/count"))
    return PathResults(assessments, requests)


def measure_via_gatepass(folder: Path, rows: Sequence[Row] = ROWS) -> PathResults:
    with upstream() as upstream_url, gatepass(folder, upstream_url) as url:
        return _measure_path(url, upstream_url, rows)


def measure_directly(rows: Sequence[Row] = ROWS) -> PathResults:
    with upstream() as url:
        return _measure_path(url, url, rows)
