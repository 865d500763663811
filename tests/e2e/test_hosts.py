"""Agent hosts from npm, as their users run them: a tool task across token changes, and what they print at faults.

`E2E_HOSTS=all` runs every fault, and a turn over llama.cpp, with every host.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from threading import Lock

import pytest

from tests.e2e.hosts.printed import PRINTED
from tests.e2e.hosts.programs import HOSTS, WITH_MCP, Host, Run, run
from tests.e2e.hosts.turns import LONG
from tests.e2e.hosts.upstream import FAULTS
from tests.e2e.mcp.clients import McpServer, mcp_server
from tests.e2e.process import Process
from tests.e2e.servers import (
    KEY,
    ONE_LATE,
    RESOURCE,
    ROOT,
    CheckedServer,
    Issuer,
    get_json,
    listening,
    serve_routes,
    start_issuer,
    start_model,
)

TOKEN_LIFE_S = 8
"""Below 4 s the margin of a token does not cover an `exp` that was rounded down. At 8 s it covers 0.4 s on the way."""
AT_ONCE = 4
"""The hosts wait more than they compute."""
DOCS = ROOT / "docs"
BY_NAME = {host.name: host for host in HOSTS}
USING_MCP = {host.name: host for host in WITH_MCP}
SHOWN = [host.name for host in HOSTS if host.name in PRINTED]
EVERY = os.environ.get("E2E_HOSTS") == "all"
WITH_LLAMA = HOSTS if EVERY else [BY_NAME["Codex"]]
"""The largest prompt of them: a turn takes half a minute of both cores."""
CHAT_FAULTS = ("chat_refused", "chat_overflow", "chat_dies", "chat_limited", "chat_ragflow")
"""Those of FAULTS over an upstream with chats alone, and an error of RAGFlow with status 200."""
TRANSLATED = ("Claude Code", "Codex")
"""The hosts whose protocol chats serve."""
WORDS = "The words are amber and basalt."
CHAT_TASKS = [
    *((name, "chat", WORDS) for name in TRANSLATED),
    *((name, "chat_edits", "After 10 calls the words are topaz, granite, copper.") for name in TRANSLATED),
    *((name, "chat_compacts", WORDS) for name in TRANSLATED),
    ("Claude Code", "chat_picture", "Pictures that I see: 1."),
    ("Codex", "chat_picture", "Pictures that I see: 2."),  # one of them is in its prompt
]
SELDOM = [(name, kind, WORDS) for kind in ("chat_bursts", "chat_whole", "chat_streams") for name in TRANSLATED]
"""A context that overflows in the stream, an upstream that never streams, one that only streams."""
CHAT_TASKS += SELDOM if EVERY else []
FAULT_CASES = [(name, fault) for fault in CHAT_FAULTS for name in TRANSLATED if EVERY]
FAULT_CASES += [(host.name, fault) for host in HOSTS for fault in (*FAULTS, "key") if host.name in SHOWN or EVERY]
CASES = [
    *((host.name, "mcp") for host in WITH_MCP),
    *((host.name, "task") for host in HOSTS),
    *((name, kind) for name, kind, _ in CHAT_TASKS),
    *((host.name, "llama") for host in WITH_LLAMA),
    *FAULT_CASES,
]


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs, which go on beside the tests, and what the servers counted."""

    futures: dict[tuple[str, str], Future[Run]]
    upstream: str
    checks: list[CheckedServer]
    gatepass: Process

    def result(self, host: str, case: str) -> Run:
        return self.futures[host, case].result()

    def requests(self, host: str, case: str) -> list[str]:
        """Return the requests that the upstream received, as `METHOD PATH STATUS`."""
        received: list[str] = get_json(f"{self.upstream}/requests")["requests"][model_of(host, case)]
        return received

    def tokens(self, host: str, case: str) -> int:
        count: int = get_json(f"{self.upstream}/requests")["tokens"][model_of(host, case)]
        return count

    def log_of(self, host: str, case: str) -> list[dict[str, object]]:
        logged = [json.loads(line) for line in self.gatepass.output.splitlines() if line.startswith("{")]
        model = model_of(host, case)
        return [line for line in logged if line["event"] == "request" and line.get("model") == model]


def model_of(host: str, case: str) -> str:
    """Return a name of this case alone. By the last word Codex knows what the model can do."""
    if host == "Codex" and case in ("chat_edits", *LONG):
        return f"{case}/gpt-5.5"
    return f"{case}-{host.replace(' ', '_').lower()}"


def routes(tools: McpServer, scripted: str, llama: str) -> str:
    return f"""
upstreams:
  up: {{base_url: "{scripted}/v1", credential: sso}}
  llama: {{base_url: "{llama}/v1", credential: sso}}
models:
  "llama-*": {{upstream: llama}}
  "chat*": {{upstream: up, protocols: [chat]}}
  "*": {{upstream: up}}
mcp:
  tools: {{url: "{tools.url}/mcp", credential: sso}}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Begin all cases, in the order of the tests."""
    folder = tmp_path_factory.mktemp("hosts")
    slot = Lock()  # llama.cpp reads one prompt at a time, and the time of a waiting host would pass

    def run_case(case: tuple[str, str]) -> Run:
        name, kind = case
        key = "unknown-key" if kind == "key" else KEY
        home = folder / model_of(name, kind).replace("/", "-")
        home.mkdir()
        host = USING_MCP[name] if kind == "mcp" else BY_NAME[name]
        if (name, kind) == ("Codex", "chat_picture"):
            host = replace(host, arguments=(*host.arguments, "--image", "picture.png"))
        with slot if kind == "llama" else nullcontext():
            return run(host, url, key, model_of(name, kind), home)

    with ExitStack() as started:
        issuer = Issuer(listening(started.enter_context(start_issuer(token_life_s=TOKEN_LIFE_S))))
        command = [sys.executable, "-m", "tests.e2e.hosts.upstream", issuer.url, RESOURCE]
        upstream = listening(started.enter_context(Process(command, folder=ROOT)))
        # the largest prompt of these programs, of Codex, has 25,000 tokens of this model
        limits = ("--slots", "1", "--slot-tokens", "32768", "--answer-tokens", "200")
        model = start_model("tiny-ends.gguf", *limits)
        llama = listening(started.enter_context(model))
        tools = started.enter_context(mcp_server("tools", issuer))
        process = started.enter_context(serve_routes(folder, issuer, routes(tools, upstream, llama)))
        url, checks = listening(process), [CheckedServer(upstream), tools]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield Runs({case: pool.submit(run_case, case) for case in CASES}, upstream, checks, process)
            pool.shutdown(cancel_futures=True)  # what no test asked for


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_a_task_with_tools_ends_right_across_token_changes(runs: Runs, host: Host):
    done = runs.result(host.name, "task")
    assert done.exit_code == 0, done.printed
    assert WORDS in done.printed
    requests = runs.requests(host.name, "task")
    assert {request.split()[1].partition("?")[0] for request in requests} == {host.path}
    assert {request.split()[2] for request in requests} == {"200"}
    assert runs.tokens(host.name, "task") > 1
    assert {line["outcome"] for line in runs.log_of(host.name, "task")} == {"ok"}


@pytest.mark.parametrize(("host", "kind", "words"), CHAT_TASKS, ids=[f"{name}-{kind}" for name, kind, _ in CHAT_TASKS])
def test_a_task_ends_right_over_an_upstream_with_old_chats_alone(runs: Runs, host: str, kind: str, words: str):
    done = runs.result(host, kind)
    assert done.exit_code == 0, done.printed
    assert words in done.printed
    requests = runs.requests(host, kind)
    assert {request.split()[1] for request in requests} == {"/v1/chat/completions"}
    assert requests[-1].endswith(" 200")
    if kind in ("chat", "chat_edits"):
        assert runs.tokens(host, kind) > 1
    lines = runs.log_of(host, kind)
    outcomes = {line["outcome"] for line in lines}
    assert outcomes == ({"ok", "error"} if kind in (*LONG, "chat_streams") else {"ok"})
    assert all("translate=" in str(line["adapted"]) for line in lines)


@pytest.mark.parametrize("host", WITH_MCP, ids=lambda host: host.name)
def test_a_host_uses_an_mcp_server_and_its_model_with_one_key(runs: Runs, host: Host):
    done = runs.result(host.name, "mcp")
    assert done.exit_code == 0, done.printed
    assert WORDS in done.printed
    assert runs.tokens(host.name, "mcp") > 1
    assert {line["outcome"] for line in runs.log_of(host.name, "mcp")} == {"ok"}
    agent = host.executable.name  # `claude` and `codex` begin their clients' names
    logged = [json.loads(line) for line in runs.gatepass.output.splitlines() if '"path":"/mcp/tools"' in line]
    called = [line for line in logged if line["event"] == "request" and line["user_agent"].startswith(agent)]
    called = [line for line in called if line["outcome"] != "client_gone"]  # an agent that ends awaits no answer
    assert {(line["caller"], line["status"]) for line in called} <= {("e2e", 200), ("e2e", 202)}
    assert len(called) > 2


@pytest.mark.parametrize("host", WITH_LLAMA, ids=lambda host: host.name)
def test_a_turn_over_llama_cpp_ends_well(runs: Runs, host: Host):
    done = runs.result(host.name, "llama")
    assert done.exit_code == 0, done.printed
    lines = runs.log_of(host.name, "llama")
    assert "ok" in {line["outcome"] for line in lines}
    assert "error" not in {line["outcome"] for line in lines}
    assert {line["path"] for line in lines} == {host.path}


@pytest.mark.parametrize(("host", "fault"), FAULT_CASES, ids=lambda value: value)
def test_a_fault_is_printed(runs: Runs, host: str, fault: str):
    done = runs.result(host, fault)
    shown = re.sub(r"(?<=127\.0\.0\.1:)\d+", "PORT", done.printed)
    if host in PRINTED:
        assert done.exit_code is not None, done.printed
        assert (done.exit_code == 0) is fault.endswith("limited"), done.printed
        assert PRINTED[host][fault] in " ".join(shown.split())
    else:
        print(f"{host}, {fault}, {done.exit_code} after {done.took_s:.0f} s:\n{shown}")


def test_no_stale_token_reached_an_upstream(runs: Runs):
    assert [refusal for check in runs.checks for refusal in check.tally().refusals] in ONE_LATE


@pytest.mark.parametrize("host", SHOWN)
def test_the_page_shows_what_was_printed(host: str):
    page, faults = DOCS / "clients" / f"{host.replace(' ', '_').lower()}.md", DOCS / "concepts" / "host_faults.md"
    words = " ".join(f"{page.read_text(encoding='utf-8')} {faults.read_text(encoding='utf-8')}".split())
    assert [text for text in PRINTED[host].values() if text not in words] == []
