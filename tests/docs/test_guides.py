"""The guides: each configuration loads and each console block prints what it shows."""

import re
import shlex
import time
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from gatepass.cli import main
from gatepass.config.load import load
from gatepass.proxy.app_state import create_app_state
from tests.docs.blocks import blocks
from tests.integration.gateway import CHAT, HELLO, JSON, serving
from tests.integration.scripted import Scripted, Send, reply

PAGES = sorted((Path(__file__).parents[2] / "docs/guides").glob("*.md"))
OTHERS = "# config.yaml of "
"""The first line of a block that is the file of another program."""
SECRET = "a-secret-of-32-characters-and-more"


def configurations(page: Path) -> list[str]:
    return [block for block in blocks(page.read_text(), "yaml") if not block.startswith(OTHERS)]


def written(block: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """Write the block as ./gatepass.yaml with its secret files; return it and the environment that it names."""
    different = (f"sha256:{number:064x}" for number in count())
    text = re.sub("sha256:…", lambda _: next(different), block).replace("/run/secrets/", f"{folder}/")
    for name in re.findall(rf"\$\{{file:({re.escape(str(folder))}/\w+)\}}", text):
        Path(name).write_text(SECRET)
        Path(name).chmod(0o600)
    file = folder / "gatepass.yaml"
    file.write_text(text)
    return file, {name: f"{SECRET}-{name}" for name in re.findall(r"\$\{(\w+)\}", text)}


def printed(command: str, page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a `gatepass` command in the folder of the page's first configuration. `tail -1` and `head -5` cut it."""
    _, environment = written(configurations(page)[0], folder)
    monkeypatch.chdir(folder)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command, _, tail = command.partition(" | ")
    done = CliRunner().invoke(main, shlex.split(command)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines(keepends=True)
    output = "".join({"": lines, "tail -1": lines[-1:], "head -5": lines[:5]}[tail])
    return re.sub(r"(?<=; )\d+(?= defaults )", "…", output)  # the number grows with each new setting


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_configuration_of_a_guide_loads(page, tmp_path):
    shown = configurations(page)
    assert shown
    for block in shown:
        file, environment = written(block, tmp_path)
        assert load(str(file), environment).warnings == ()
    for block in set(blocks(page.read_text(), "yaml")) - set(shown):
        assert "gatepass" not in block or "http://gatepass:8080/v1" in block
        YAML(typ="safe").load(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_guide_shows_what_its_commands_print(page, tmp_path, monkeypatch):
    text = "".join(blocks(page.read_text(), "console"))
    shown = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    assert shown
    for part in shown:
        command, _, output = part.partition("\n")
        assert printed(command, page, tmp_path, monkeypatch) == output, command


async def test_gatepass_sends_what_the_forwarder_of_the_page_sent(tmp_path):
    """The login, the token's header, the dropped member and the client's key, as its Python code has them."""
    (page,) = [page for page in PAGES if page.stem == "replace_a_forwarder"]
    file, environment = written(configurations(page)[0], tmp_path)
    answers = {
        "/api/token": {"data": {"token": "minted", "expireAt": int((time.time() + 300) * 1000)}},
        CHAT: {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]},
    }
    async with Scripted(answer=lambda request: [Send(reply(answers[request.target]))]) as corp:
        text = re.sub(r"https://\w+\.corp\.example", corp.url, file.read_text())
        file.write_text(text)
        config = load(str(file), environment).config
        async with serving(create_app_state(config)) as gatepass:
            by_key = {**JSON, "authorization": f"Bearer {environment['FORWARDER_KEY']}"}
            answer = await gatepass.ask({**HELLO, "drop_params": True}, headers=by_key).answer()
    login, chat = corp.received
    assert answer.status == 200
    assert login.json() == {"app_id": "bot", "secret": environment["SECRET"]}
    assert (chat.header("x-auth-token"), chat.header("authorization")) == ("minted", None)
    assert chat.json() == HELLO
