"""What README.md and the other pages tell people to type exists, and its configuration loads."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gatepass.cli import COMMANDS
from gatepass.config.load import load
from gatepass.tokens.issuer_error import TokenResponse, embedded_error_failure, parse_json_text
from gatepass.tokens.secrets import secret_retry_hint
from gatepass.types import Secret

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
def test_every_link_to_a_file_leads_somewhere(page):
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


def test_the_error_of_the_readme_has_the_shape_that_gatepass_writes():
    (block,) = blocks("json")
    error = json.loads(block)["error"]
    assert (error.pop("code"), error.pop("hop"), error.pop("type")) == (
        *("token_unavailable", "credential:token"),
        "server_error",
    )
    said = TokenResponse(200, ((b"content-type", b"application/json"),), b'{"code": 1001, "msg": "wrong app secret"}')
    failure = embedded_error_failure(parse_json_text(said.text), said, 0.0, "portal.corp.example", str)
    assert failure is not None
    assert failure.unclear
    assert error.pop("message") == (
        f"no token for credential token: {failure.reason}; tried again in 27 s"
        + secret_retry_hint([Secret(lambda: "", changes=True)])
    )
    assert error == {"param": None}


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
