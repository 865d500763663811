"""Each code block of each page runs in a test, or is parsed here and has its reason; each external link is listed.

A new block fails here until its page and language are in RUN or PARSED.
"""

import ast
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import click
import pytest
from ruamel.yaml import YAML

from gatepass.cli import main
from gatepass.config.load import load

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "bench/*.md", "examples/*.md", "tests/e2e/README.md")
    for page in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(gatepass [^`]+)`")

RUN = {
    ("CONTRIBUTING.md", "sh"): "test_contributing",
    ("docs/extending.md", "sh python diff"): "test_contributing",
    ("README.md", "yaml"): "test_readme",
    ("docs/agents_and_mcp_hosts.md", "python sh"): "test_clients",
    ("docs/clients/*.md", "json toml console"): "test_clients",
    ("docs/container.md", "text"): "test_compose_clients",
    ("docs/container.md", "yaml"): "test_compose",
    ("docs/adaptations.md", "yaml console"): "test_adaptations",
    ("docs/concepts/classification.md", "json"): "test_site",
    ("docs/concepts/learned_rules.md", "json"): "test_site",
    ("docs/configuration.md", "yaml console text"): "test_configuration",
    ("docs/embedding.md", "python"): "test_embedding",
    ("docs/reference/errors.md", "json text"): "test_errors",
    ("docs/getting_started.md", "console python"): "test_getting_started",
    ("docs/guides/*.md", "yaml console"): "test_guides",
    ("docs/quirks.md", "text"): "test_quirks",
    ("docs/upgrade.md", "text"): "test_configuration",
    ("docs/ragflow.md", "console sh text"): "test_ragflow",
    ("docs/model_list.md", "json"): "test_operations",
    ("docs/production.md", "yaml console"): "test_production",
    ("docs/scaling.md", "text"): "test_production",
    ("docs/scaling.md", "yaml sh"): "test_scaling",
    ("docs/operations/*.md", "console json"): "test_operations",
    ("docs/symptoms.md", ""): "test_operations",
    ("docs/operations/limits_and_memory.md", "text"): "test_operations",
    ("docs/reference/metrics.md", "text"): "test_observability",
    ("docs/concepts/learned_rules.md", "text"): "test_site",
    ("docs/reference/c*.md", "yaml"): "test_reference",
    ("docs/reference/configuration.md", "sh"): "test_environment",
    ("docs/reference/http.md", "sh"): "test_http_reference",
    ("docs/tokens.md", "yaml"): "test_tokens",
    ("docs/tokens.md", "python"): "test_tokens",
    ("docs/zh/*.md", "sh yaml json toml console dockerfile python"): "test_zh",
    ("docs/zh/*.md", ""): "test_zh",
    ("README.zh.md", "sh yaml"): "test_zh",
}
"""(pages, languages): the module in tests/docs that runs, loads or compares these blocks."""

LOADED = (
    *("docs/clients/*.md", "docs/concepts/profiles.md", "docs/dialects.md", "docs/ragflow.md"),
    *(
        "docs/concepts/translation.md",
        "docs/model_list.md",
        "docs/operations/keys.md",
        "docs/operations/ui.md",
    ),
)
"""Pages whose configurations test_a_configuration_loads loads."""

PARSED = {
    ("README.md", "sh"): "serves until stopped",
    ("bench/README.md", "sh"): "takes seven minutes and a second version of gatepass",
    ("examples/README.md", "sh text"): "tests/integration/test_examples.py runs the programs, and has the output",
    ("docs/adaptations.md", "text"): "a header of a response; tests/docs/test_adaptations.py checks each entry",
    ("docs/architecture.md", ""): "drawings",
    ("docs/changelog.md", "{include} ../CHANGELOG.md"): "a directive of the site",
    ("docs/concepts/*.md", ""): "drawings and event streams",
    ("docs/concepts/profiles.md", "json"): "a chunk; tests/unit/sse/test_client_transforms.py has its repair",
    ("docs/clients/README.md", "sh"): "needs Docker",
    ("docs/container.md", "dockerfile"): "needs Docker, and the CA of a company",
    ("docs/container.md", "sh"): "needs Docker; tests/e2e/container builds and runs the image",
    ("deploy/README.md", "sh"): "needs Docker; tests/e2e/container runs the Compose file",
    ("docs/contributing.md", "{include} ../CONTRIBUTING.md"): "a directive of the site",
    ("docs/getting_started.md", "sh"): "installs, or asks on a terminal; test_getting_started.py runs the other lines",
    ("docs/getting_started.md", "yaml"): "parts of a file",
    ("docs/getting_started.md", "text"): "needs the servers of a company",
    ("docs/guides/*.md", "sh"): "serves until stopped, or needs the running servers of the page",
    ("docs/guides/*.md", "text"): "the figures of a benchmark, and a header of a response",
    ("docs/concepts/translation.md", "sh"): "needs a running gatepass",
    ("docs/production.md", "sh"): "test_production.py makes the same files, and serves",
    ("docs/operations/tls.md", "yaml text"): "parts of a file, and an error; tests/integration/listener has both",
    ("docs/kubernetes.md", "sh"): "needs Docker, Helm and a cluster; tests/docs/test_chart.py reads the files it names",
    ("docs/mcp.md", "yaml json toml sh text console"): "parts of configurations, of gatepass and of MCP clients",
    ("docs/mcp.md", "python"): "imports mcp, which gatepass does not require",
    ("docs/model_list.md", "sh"): "needs a running gatepass",
    ("docs/guides/replace_a_forwarder.md", "python"): "imports Flask and requests, which gatepass does not require",
    ("docs/index.md", "{toctree}"): "a directive of the site",
    ("docs/operations/*.md", "sh"): "needs root, or a running container; test_shell.py runs the lines of three shells",
    ("docs/operations/monitoring.md", "text"): "tests/e2e/test_prometheus.py gives the queries to a real Prometheus",
    ("docs/operations/monitoring.md", "yaml"): "the file of Prometheus",
    ("docs/operations/store.md", "text"): "tests/e2e/test_valkey.py gives this line to a real server",
    ("docs/operations/ui.md", "text"): "lines of nginx",
    ("docs/reference/http.md", "text"): "an error; tests/unit/protocols/test_messages.py checks its members",
    ("docs/release.md", "sh"): "builds a release, and asks a service; tests/release tests the parts",
    ("docs/supply_chain.md", "sh"): "needs a published release, and a tool of the release",
    ("docs/security.md", "{include} ../SECURITY.md"): "a directive of the site",
    ("docs/tokens.md", ""): "output and drawings",
    ("docs/tokens.md", "dockerfile"): "needs Docker and the packages of vendors",
    ("docs/upgrade.md", "sh"): "needs Docker and two versions of gatepass",
    ("docs/zh/*.md", "text"): "needs the servers of a company",
    ("tests/e2e/README.md", ""): "a drawing",
    ("tests/e2e/README.md", "console"): "needs a network and a registry",
}
"""(pages, languages): why these blocks are parsed and do not run."""

EXTERNAL = {
    "https://agentgateway.dev/docs",
    "https://aigateway.envoyproxy.io/docs",
    "https://developer.konghq.com/plugins/upstream-oauth",
    "https://docs.litellm.ai",
    "https://docs.litellm.ai/docs/completion/drop_params",
    "https://docs.litellm.ai/docs/proxy/configs",
    "https://docs.litellm.ai/docs/proxy/forward_client_headers",
    "https://docs.litellm.ai/docs/proxy/virtual_keys",
    "https://github.com/BerriAI/litellm/pull/31026",
    "https://github.com/songquanpeng/one-api/blob/main/README.md",
    "https://oauth2-proxy.github.io/oauth2-proxy/",
    "https://portkey.ai/docs",
    "https://portkey.ai/docs/aigw/integrations/llms/azure-openai/authentication",
    "https://wso2.com/api-platform/docs/ai-gateway/next/authenticate-backends.md",
    "https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/credential_injector_filter",
}
"""Every link that leaves the documentation. Open each of them by hand before a release."""


class Block(NamedTuple):
    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page} {self.language or 'no language'}"


def blocks_of(page: Path) -> Iterator[Block]:
    for found in BLOCK.finditer(page.read_text()):
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        yield Block(str(page.relative_to(ROOT)), found["info"].strip(), text)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def covers(key: tuple[str, str], block: Block) -> bool:
    pages, languages = key
    return fnmatchcase(block.page, pages) and (block.language == languages or block.language in languages.split())


def commands_of(text: str) -> list[str]:
    """The lines of a shell block, with continued lines joined and without the prompt."""
    return [line.strip().removeprefix("$ ") for line in re.sub(r"\\\n\s*", "", text).splitlines()]


def test_each_fence_is_closed() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(list(blocks_of(page))), page


def test_each_block_runs_in_a_test_or_is_parsed_for_a_reason() -> None:
    loaded = {(page, "yaml"): "" for page in LOADED}
    unmarked = [str(block) for block in BLOCKS if not any(covers(key, block) for key in {**RUN, **PARSED, **loaded})]
    assert unmarked == [], "add the page and its language to RUN, or to PARSED with the reason"


def test_no_block_is_marked_twice() -> None:
    twice = [str(block) for block in BLOCKS if sum(covers(key, block) for key in {**RUN, **PARSED}) > 1]
    assert twice == []


def test_no_entry_is_stale() -> None:
    keys = {**RUN, **PARSED, **{(page, "yaml"): "" for page in LOADED}}
    assert [key for key in keys if not any(covers(key, block) for block in BLOCKS)] == []


@pytest.mark.parametrize(("pages", "module"), [(pages, module) for (pages, _), module in RUN.items()])
def test_the_test_that_runs_a_block_reads_its_page(pages: str, module: str) -> None:
    folder, _, name = pages.rpartition("/")
    text = (ROOT / "tests" / "docs" / f"{module}.py").read_text()
    assert name in text if "*" not in name else folder.rpartition("/")[2] in text


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_block_parses(block: Block) -> None:
    match block.language:
        case "yaml":
            YAML(typ="safe").load(block.text)
        case "json":
            json.loads(block.text if block.text.startswith("{") else f"{{{block.text}}}")
        case "python":
            ast.parse(dedent(block.text))
        case "sh" | "console":
            shown = [line for line in commands_of(block.text) if line] if block.language == "sh" else _typed(block.text)
            assert shown
            subprocess.run(["bash", "-n"], input="\n".join(shown), text=True, check=True, timeout=30)
        case "toml":
            tomllib.loads(block.text)
        case "dockerfile":
            assert all(re.match("(FROM|COPY|RUN|USER) ", line) for line in block.text.splitlines())
        case "diff":
            assert re.match(r"--- (a/|/dev/null)", block.text)
        case _:
            assert block.language in ("", "text") or block.language.startswith("{")
            assert block.text.strip()


def _typed(text: str) -> list[str]:
    """Of a block with a terminal's output, the lines that a user types."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_and_option_of_gatepass_exists(page: Path) -> None:
    shown = [line for block in blocks_of(page) if block.language == "sh" for line in commands_of(block.text)]
    shown += [line for block in blocks_of(page) if block.language == "console" for line in _typed(block.text)]
    shown = [line for line in shown if line.startswith("gatepass ")] + INLINE.findall(
        re.sub(r"(?m)^- Message.*", "", page.read_text())
    )
    shown = [line for line in shown if not line.startswith("gatepass listening on ")]  # a log line
    for line in shown:
        command: click.Command = main
        words = shlex.split(re.split(r" [|>] | #", line)[0])[1:]
        while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
        assert {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= options, line


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "yaml" and any(fnmatchcase(block.page, page) for page in LOADED)],
    ids=str,
)
def test_a_configuration_loads(block: Block, tmp_path: Path) -> None:
    """A part of a file loads with stand-ins for the names that it uses and does not define."""
    parts = enumerate(block.text.split("sha256:…"))
    text = "".join(f"sha256:{at:064x}" * (at > 0) + part for at, part in parts)
    tree: dict[str, Any] = YAML(typ="safe").load(text)
    if not {"endpoints", "schema", "services"}.isdisjoint(tree):
        return  # a file of LibreChat or Continue, which test_clients.py checks
    models = tree.get("models", {}).values()
    upstreams = {"chat", *(model["upstream"] for model in models if "upstream" in model)}
    defaults = {"upstreams": {name: {"base_url": "http://127.0.0.1:9/v1"} for name in upstreams}}
    defaults["models"] = {"*": {"upstream": "chat"}}
    file = tmp_path / "gatepass.json"
    file.write_text(json.dumps({**defaults, **tree}))
    names = re.findall(r"\$\{(\w+)\}", block.text)
    assert load(str(file), dict.fromkeys(names, "a-secret-of-32-characters-and-more")).warnings == ()


def test_the_external_links_are_the_listed_ones() -> None:
    linked = {link for page in PAGES for link in re.findall(r"\]\((https?://[^)]+)\)", page.read_text())}
    assert linked == EXTERNAL
