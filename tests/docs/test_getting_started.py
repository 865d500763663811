"""docs/getting_started.md, followed from `gatepass init` to the second client, on the servers of examples/."""

import re
import shlex
from pathlib import Path

import httpx2
import pytest
from examples import demo
from examples.company_gateway import answer

from gatepass.cli.init import OF_AUTH, fault_of, init
from tests.docs.blocks import blocks
from tests.integration.processes import python_process, serving
from tests.serving import free_port

PAGE = (Path(__file__).parents[2] / "docs/getting_started.md").read_text()
CHAT_MODEL = "demo-chat"
SECRET = demo.SECRETS["CHAT_SECRET"]


def command(start: str) -> list[str]:
    """The arguments of the one command of the page that starts so."""
    lines = re.sub(r"\\\n\s*", "", "".join(blocks(PAGE, "sh"))).splitlines()
    (line,) = [line for line in lines if line.startswith(start)]
    return shlex.split(line)[1:]


async def run(*arguments: str) -> str:
    """The output of Python with these arguments."""
    process = await python_process("-P", *arguments)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_steps_of_the_page_connect_two_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CORP_SECRET", SECRET)
    with demo.servers(9001, 9002) as ports:
        of_page = {
            "https://llm.corp.example/v1": f"http://127.0.0.1:{ports[9002]}/v1",
            "https://sso.corp.example/oauth/token": f"http://127.0.0.1:{ports[9001]}/oauth/token",
        }
        arguments = [
            of_page.get(word, word)
            for word in command("gatepass init --yes --base-url https://llm.corp.example/v1 --auth oauth2")
        ]
        arguments[arguments.index("--client-id") + 1] = "demo-chat"
        printed = await run("-m", "gatepass", *arguments)
        keys = re.findall(r"gp-[\w-]+", printed)
        shown = next(block for block in blocks(PAGE, "text") if "API key" in block)
        values = re.sub(r"gp-[\w-]+", "gp-…", printed).replace("127.0.0.1", "HOST")
        assert shown in values

        file = tmp_path / "gatepass.yaml"
        file.write_text(file.read_text().replace("port: 8080", f"port: {port}"))
        whole, streamed = re.findall(r"-d '(.*)'", "".join(blocks(PAGE, "sh")).replace("gpt-4o", CHAT_MODEL))
        async with serving(*command("gatepass serve")[1:]) as running:
            assert await running.port == port
            (program,) = blocks(PAGE, "python")
            program = program.replace("8080", str(port)).replace("gpt-4o", CHAT_MODEL)
            monkeypatch.setenv("KEY", keys[0])
            said = await run("-c", program)
            assert said == f"{answer([{'content': 'Hello'}])}\n"
            keys += await second_client()
            for key in keys:
                headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
                async with httpx2.AsyncClient(trust_env=False) as client:
                    url = f"http://127.0.0.1:{port}/v1/chat/completions"
                    reply = await client.post(url, content=whole, headers=headers)
                    stream = await client.post(url, content=streamed, headers=headers)
                assert reply.status_code == 200, reply.text
                assert stream.text.count("\n\ndata: ") >= 3
                assert stream.text.endswith("}\n\ndata: [DONE]\n\n"), stream.text
    assert len(keys) == 2


async def second_client() -> list[str]:
    """Create the second key in the file, reload, and compare both outputs with the page. Return the key."""
    printed = await run("-m", "gatepass", *command("gatepass keys new"))
    (console,) = blocks(PAGE, "console")
    for part in re.split(r"^\$ gatepass ", console, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        hidden = [
            re.sub(r"sha256:\w+|\b[0-9a-f]{8}$", "…", text, flags=re.MULTILINE)
            for text in (await run("-m", "gatepass", *line.split()), shown)
        ]
        assert hidden[0] == hidden[1], line
    return re.findall(r"gp-[\w-]+", printed)


def test_the_options_of_a_json_login_are_accepted() -> None:
    arguments = command("gatepass init --yes --base-url https://llm.corp.example/v1 --auth login")
    options = init.make_context("init", arguments[1:]).params
    assert not [name for name in OF_AUTH["login"] if fault_of(name, options[name])]
