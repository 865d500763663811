"""The commands in README.md and the other pages exist, and its configuration loads."""

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from gatepass.cli import COMMANDS
from gatepass.config.load import load
from gatepass.proxy.app_state import create_app_state
from tests.integration.gateway import CHAT, JSON, serving
from tests.integration.scripted import Scripted, Send, reply

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/clients/*.md"), *ROOT.glob("deploy/*.md")]
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_readme_has_at_most_700_words_outside_code():
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL))
    assert len(prose.split()) <= 700


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_has_a_target(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_section_leads_to_its_heading(page):
    links = re.findall(r"\]\(([^)#:]*\.md)?#([^)]+)\)", page.read_text())
    assert [link for link in links if link[1] not in anchors(page.parent / link[0] if link[0] else page)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page):
    named = set(re.findall(r"(?:`|/bin/)gatepass ([a-z]+)", page.read_text()))
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
        named |= set(re.findall(r"^ *gatepass ([a-z]+)", block, re.MULTILINE))
    assert named - {"listening"} <= set(COMMANDS)


def test_every_make_target_that_the_readme_names_exists():
    made = (ROOT / "Makefile").read_text() + (ROOT / "bench" / "bench.mk").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", made, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z0-9-]+)", README)) - {"nothing"} <= targets


def test_the_configuration_of_the_readme_has_six_lines_and_loads(tmp_path):
    (block,) = blocks("yaml")
    assert len(block.splitlines()) == 6
    file = tmp_path / "gatepass.yaml"
    file.write_text(block.replace("sha256:…", "sha256:" + "0" * 64))
    config = load(str(file), {"CORP_SECRET": "a-secret-of-the-client"}).config
    assert (set(config.upstreams), set(config.credentials)) == ({"chat"}, {"corp"})
    assert [key.profile for key in config.access.keys] == ["ragflow"]


def test_the_environment_of_the_readme_is_a_configuration(tmp_path):
    exports = dict(re.findall(r"(GATEPASS_\w+)=(\S+)", "\n".join(blocks("sh"))))
    assert "GATEPASS_CONFIG" not in exports  # the commands of the README read ./gatepass.yaml
    secret = tmp_path / "corp"
    secret.write_text("a-secret-of-the-client")
    exports["GATEPASS_CLIENT_SECRET_FILE"] = str(secret)
    config = load(None, exports).config
    assert [hop.base_url for hop in config.upstreams.values()] == ["https://llm.corp.example/v1"]
    assert [credential.type for credential in config.credentials.values()] == ["oauth2"]


async def test_the_requests_of_the_readme_get_the_replies_that_it_shows(tmp_path):
    """First from an upstream that answers, then from a token endpoint that rejects the client."""
    (configuration,), (console,), (error,) = blocks("yaml"), blocks("console"), blocks("json")
    shown = console.splitlines()[-1]
    body = json.loads(re.findall(r"-d '(.*)'", console)[0])
    key = "gp-0123456789abcdef0123456789abcdef"
    accepted = {"access_token": "the-token", "token_type": "Bearer", "expires_in": 300}
    answers: dict[str, bytes] = {}
    for login, answer, status, text in (
        (reply(accepted), reply(json.loads(shown)), 200, shown),
        (reply({"error": "invalid_client"}, 401), b"", 503, error),
    ):
        answers.update({"/oauth/token": login, CHAT: answer})
        async with Scripted(answer=lambda asked: [Send(answers[asked.target])]) as corp:
            file = tmp_path / "gatepass.yaml"
            served_at = re.sub(r"https://\w+\.corp\.example", corp.url, configuration)
            file.write_text(served_at.replace("sha256:…", f"sha256:{sha256(key.encode()).hexdigest()}"))
            config = load(str(file), {"CORP_SECRET": "a-secret-of-the-client"}).config
            async with serving(create_app_state(config)) as gateway:
                got = await gateway.ask(body, headers={**JSON, "authorization": f"Bearer {key}"}).answer()
        returned = re.sub(r"127\.0\.0\.1(:\d+)?", "sso.corp.example", got.body.decode())
        assert (got.status, json.loads(re.sub(r"in [\d.]+ s", "in 27 s", returned))) == (status, json.loads(text))


def test_no_sentence_of_the_readme_has_more_than_25_words():
    prose = re.sub(r"\]\([^)]*\)", "]", re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL))
    parts = re.split(r"(?<=[.:!?])\s+(?=[A-Z`\[])|\n\n|\n- |\n\||\|", prose)
    assert {part for part in parts if len(part.split()) > 25} == set()


def test_help_names_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "gatepass", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert [name for name in COMMANDS if name not in done.stdout] == []
