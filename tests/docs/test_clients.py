"""Each client has its page, and what the pages say of profiles is so."""

import asyncio
import json
import re
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import click
import pytest
from ruamel.yaml import YAML

from gatepass.cli.story_lines import HEAD, list_line, summary_line
from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, hash_key
from tests.docs.blocks import blocks
from tests.e2e.hosts.programs import HOSTS
from tests.golden.test_stories import listed
from tests.integration.gateway import relaying
from tests.integration.scripted import Rst, Send, begin_stream, chunk, event, reply

DOCS = Path(__file__).parents[2] / "docs"
INDEX = (DOCS / "clients" / "README.md").read_text()
AGENTS = (DOCS / "agents_and_mcp_hosts.md").read_text()
PAGES = {"ragflow": DOCS / "ragflow.md", **{page.stem: page for page in DOCS.glob("clients/[!R]*.md")}}


RUN = {"claude_code", "cline", "codex", "continue", "opencode", "qwen_code"}
"""The programs of tests/e2e/test_hosts.py."""


def test_each_page_is_in_the_index_with_the_same_sections_its_profile_and_whether_it_was_run():
    linked = {(DOCS / "clients" / link).resolve() for link in re.findall(r"\]\(([^)]+\.md)\)", INDEX)}
    assert {page.resolve() for page in PAGES.values()} <= linked
    assert set(BUILT_IN_PROFILES) - {"plain"} <= set(PAGES)
    for name, page in PAGES.items():
        text = " ".join(page.read_text().split())
        is_plain = BUILT_IN_PROFILES.get(name, PLAIN) == PLAIN
        assert ("no profile is needed" if is_plain else f"profile: {name}") in text, name
        assert ("was run here" if name in RUN else "have not tested") in text, name
        headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
        assert name == "ragflow" or headings == ["Enter", "Check", "If it fails", "Known limits", "Tested"], name


def test_the_version_that_was_run_is_that_of_the_lock():
    """Also on the Chinese page of clients, if it names the version."""
    packages = json.loads((DOCS.parent / "tests/e2e/hosts/package-lock.json").read_text())["packages"]
    for host in HOSTS:
        page = PAGES[host.name.replace(" ", "_").lower()].read_text()
        (ran,) = re.findall(r"^\*\*Run with .+ ([\d.]+) on (\d{4}-\d\d-\d\d)\*\*", page, re.MULTILINE)
        assert ran[0] == packages[f"node_modules/{host.package}"]["version"]
        in_chinese = rf"(\d{{4}}-\d\d-\d\d) 在此运行过 {host.name} ([\d.]+)（"
        for date, version in re.findall(in_chinese, (DOCS / "zh/clients.md").read_text()):
            assert (version, date) == ran


def blocks_of(name: str, language: str) -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", PAGES[name].read_text(), re.MULTILINE | re.DOTALL)
    return [dedent(block) for block in found]


def test_the_files_of_the_clients_lead_to_gatepass():
    url = "http://gatepass.example:8080"
    (shown,) = [YAML(typ="safe").load(block) for block in blocks_of("librechat", "yaml") if "\nendpoints:" in block]
    assert shown["version"]  # LibreChat ignores a file without it
    (endpoint,) = shown["endpoints"]["custom"]
    assert endpoint["baseURL"] == f"{url}/v1"
    assert endpoint["models"]["fetch"] is True
    assert endpoint["apiKey"].startswith("${")
    (block,) = [block for block in blocks_of("continue", "yaml") if block.startswith("name: ")]
    assert YAML(typ="safe").load(block)["models"][0]["apiBase"] == f"{url}/v1"
    for name, path in (("claude_code", ""), ("opencode", "/v1"), ("vscode", "/v1/chat/completions")):
        (block,) = blocks_of(name, "json")
        assert url + path in re.findall(r'"(http[^"]+)"', json.dumps(json.loads(block)))
    codex = tomllib.loads(blocks_of("codex", "toml")[0])
    provider = codex["model_providers"][codex["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{url}/v1", "responses")
    for model in json.loads(blocks_of("opencode", "json")[0])["provider"]["gatepass"]["models"].values():
        assert set(model["limit"]) == {"context", "output"}


@pytest.mark.parametrize("name", sorted(set(PAGES) - {"ragflow"}))
def test_a_page_shows_its_request_as_gatepass_prints_it(name):
    text = PAGES[name].read_text()
    (block,) = blocks(text, "console")
    command, head, line = block.splitlines()
    assert command == "$ gatepass tail --once"
    _, status, request, caller, model, *_ = line.split()
    assert f"--name {name} " in text
    assert (head, caller) == (list_line(HEAD), name)
    adapted = re.findall(r"translate=\w+", line)
    adapted += ["untranslated=thinking"] * sum(map(int, re.findall(r" \+(\d+)\Z", line)))
    summary = listed(id=request, caller=caller, model=model, attempts=1, adapted=adapted)
    assert (line, status) == (click.unstyle(summary_line(summary)), "200")


async def test_the_script_of_the_page_gets_its_answer_by_arguments_and_by_variables() -> None:
    (script, *_), (exports, _) = blocks(AGENTS, "python"), blocks(AGENTS, "sh")
    by_variables, replaced = re.subn(r"OpenAI\(base_url.*\)", "OpenAI()", script)
    assert replaced == 1
    message = {"role": "assistant", "content": "Hello!"}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    async with relaying(answer=lambda _: [Send(reply(answer))]) as (llm, gatepass):
        for shown, variables in ((script, ""), (by_variables, exports)):
            here = [
                text.replace("gatepass.example:8080", f"127.0.0.1:{gatepass.port}").replace("gp-…", "gp-any")
                for text in (shown, variables)
            ]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", here[0]),
                env=dict(re.findall(r"^export (\w+)=(.*)$", here[1], re.MULTILINE)),
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
            assert output == b"Hello!\n"
    assert [request.header("authorization") for request in llm.received] == [None, None]


@pytest.mark.parametrize(("key", "hop"), [("gp-0123456789abcdef", "upstream:chat"), ("gp-wrong", "client")])
async def test_the_lines_for_an_error_print_its_hop_and_its_id(key: str, hop: str) -> None:
    script, for_error, *_ = blocks(AGENTS, "python")
    text = script.partition("reply =")[0] + for_error
    keys = {"keys": [{"name": "one", "hash": hash_key("gp-0123456789abcdef")}]}
    delta = {"id": "c", "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]}
    cut = [*begin_stream(), Send(chunk(event(delta))), Rst()]
    async with relaying(answer=lambda _: cut, access=keys) as (_, gatepass):
        shown = text.replace("gatepass.example:8080", f"127.0.0.1:{gatepass.port}").replace("gp-…", key)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", shown, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert re.search(rf" {hop} [a-z]{{24}}\n$", output.decode()), output
