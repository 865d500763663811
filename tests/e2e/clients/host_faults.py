"""What the clients of docs/concepts/host_faults.md do at a fault: shared by test_limits.py and test_traffic.py."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.clients.program import Program
from tests.e2e.hosts import programs
from tests.e2e.servers import KEY, ROOT

TEXT = "All is well."
"""What each model says."""
SDKS = {
    "openai, Python": Program("openai, Python", "python-client", "ask_openai.py"),
    "openai, Node": Program("openai, Node", "node-client", "ask_openai.mjs"),
    "anthropic, Python": Program("anthropic, Python", "python-anthropic", "ask_anthropic.py"),
}
VERSIONS = {
    "openai, Python 1": Program("openai, Python 1", "python-openai1", "ask_openai.py"),
    "openai, Python 2": Program("openai, Python 2", "python-openai2", "ask_openai.py"),
    "openai, Python 3": SDKS["openai, Python"],
    "openai, Node 6": SDKS["openai, Node"],
    "openai, Node 7": Program("openai, Node 7", "node-openai7", "ask_openai.mjs", has_newer_node=True),
    "anthropic, Python 2": SDKS["anthropic, Python"],
}
"""Versions of SDKs that obey different waits."""
AGENTS = {host.name: host for host in programs.HOSTS if host.name in ("Claude Code", "Codex")}
CLIENTS = (*SDKS, *AGENTS)
PAGE = ROOT / "docs" / "concepts" / "host_faults.md"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
OWN_RETRIES = 2
"""The default of these SDKs."""


async def by_sdk(client: str, port: int, kinds: Mapping[str, str], bound_s: float) -> dict[str, dict[str, Any]]:
    """Return the result of each call of the SDK with its own retries, by model. `kinds`: that of each model's call."""
    given = [
        {
            "model": model,
            "kind": kind,
            "body": CHAT if kind in ("plain", "raw") else {"input": "Hi"},
            "repeats": OWN_RETRIES,
        }
        for model, kind in kinds.items()
    ]
    program = {**SDKS, **VERSIONS}[client]
    results = await asyncio.to_thread(program.run, f"http://127.0.0.1:{port}", given, timeout_s=bound_s)
    return dict(zip(kinds, results, strict=True))


async def by_host(client: str, port: int, model: str, folder: Path) -> tuple[bool, str]:
    """Return whether the agent host answers, and what it prints."""
    url = f"http://127.0.0.1:{port}"
    done = await asyncio.to_thread(programs.run, AGENTS[client], url, KEY, model, folder / model)
    assert done.exit_code is not None, f"{client} waits: {done.printed}"
    assert (TEXT in done.printed) is (done.exit_code == 0), done.printed
    return done.exit_code == 0, done.printed


def table(faults: Sequence[str], clients: Sequence[str] = CLIENTS) -> dict[tuple[str, str], str]:
    """Return the cells of the table of the page that has these faults, by fault and client."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    begin = next(at for at, row in enumerate(rows) if row[0] == faults[0])
    assert rows[begin - 2][1:] == [*clients]
    assert [row[0] for row in rows[begin : begin + len(faults)]] == [*faults]
    return {
        (row[0], client): cell
        for row in rows[begin : begin + len(faults)]
        for client, cell in zip(clients, row[1:], strict=True)
    }
