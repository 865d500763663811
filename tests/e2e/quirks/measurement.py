"""Run the real clients on every row against the scripted upstream, directly and through gatepass."""

import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.clients.program import Program
from tests.e2e.process import Process
from tests.e2e.quirks.assessment import Assessment, Result, assess
from tests.e2e.quirks.row import Mode, Row
from tests.e2e.quirks.rows import ROWS
from tests.e2e.servers import ROOT, get_json, listening, serve

Config = dict[str, Any]
CLIENTS = (
    Program("openai-python 3", "python-client", "ask_openai.py"),
    Program("openai-python 2", "python-openai2", "ask_openai.py"),
    Program("openai-python 1", "python-openai1", "ask_openai.py"),
    Program("openai-node 6", "node-client", "ask_openai.mjs"),
    Program("langchain-openai", "python-langchain", "ask_langchain.py"),
    Program("AI SDK", "node-ai-sdk", "ask_ai_sdk.mjs"),
)
UNSUPPORTED = {("langchain-openai", "token-ids"), ("AI SDK", "token-ids")}
"""Rows whose request a client cannot send."""

Calls = Sequence[tuple[Row, Mode]]
Results = dict[tuple[str, Mode], Result]
Assessments = dict[tuple[str, Mode], Assessment]
"""By the name of the model and the mode."""


def calls_of(client: Program, rows: Sequence[Row] = ROWS) -> Calls:
    return [(row, mode) for row in rows if (client.title, row.model) not in UNSUPPORTED for mode in row.modes]


@contextmanager
def upstream() -> Iterator[str]:
    with Process([sys.executable, "-m", "tests.e2e.quirks.upstream"], folder=ROOT) as process:
        yield listening(process)


def configuration(url: str) -> Config:
    """Return a configuration with an upstream for each route. Each row about tokens has its own credential."""
    renewed = [row.model for row in ROWS if row.route == "renewed"]
    return {
        "credentials": {model: {"type": "http_json", "url": f"{url}/token"} for model in renewed},
        "upstreams": {
            "main": {"base_url": f"{url}/v1"},
            "ragflow": {"base_url": url, "dialect": "ragflow"},
            "cumulative": {"base_url": f"{url}/v1", "repair": {"cumulative": True}},
            **{model: {"base_url": f"{url}/v1", "credential": model} for model in renewed},
        },
        "models": {
            "*": {"upstream": "main"},
            "system-and-developer": {"upstream": "main", "rules": {"roles": {"system": "user"}}},
            "alternate": {"upstream": "main", "rules": {"merge_roles": True}},
            **{row.model: {"upstream": row.route} for row in ROWS if row.route == "ragflow"},
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
    """The results over one path, and the requests that the upstream received by model, by the title of the client."""

    results: dict[str, Results] = field(default_factory=dict)
    assessments: dict[str, Assessments] = field(default_factory=dict)
    requests: dict[str, Counter[str]] = field(default_factory=dict)


def _measure_path(url: str, upstream_url: str, rows: Sequence[Row]) -> PathResults:
    path = PathResults()
    for client in CLIENTS:
        forget = urllib.request.Request(f"{upstream_url}/forget", b"", method="POST")  # noqa: S310 - loopback
        urllib.request.urlopen(forget, timeout=10).close()  # noqa: S310 - loopback
        calls = calls_of(client, rows)
        given = [
            {"model": row.model, "kind": mode, "body": row.request_body(mode), "repeats": row.repeats}
            for row, mode in calls
        ]
        results = client.run(url, given)
        path.results[client.title] = {
            (row.model, mode): result for (row, mode), result in zip(calls, results, strict=True)
        }
        path.assessments[client.title] = {
            (row.model, mode): assess(row, path.results[client.title][row.model, mode]) for row, mode in calls
        }
        path.requests[client.title] = Counter(get_json(f"{upstream_url}/count"))
    return path


def measure_via_gatepass(folder: Path, rows: Sequence[Row] = ROWS) -> PathResults:
    with upstream() as upstream_url, gatepass(folder, upstream_url) as url:
        return _measure_path(url, upstream_url, rows)


def measure_directly(rows: Sequence[Row] = ROWS) -> PathResults:
    with upstream() as url:
        return _measure_path(url, url, rows)
