"""docs/getting_started.md, followed from `gatepass init` to the second client, on the servers of examples/."""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from examples import demo
from examples.company_gateway import answer

from gatepass.cli.init import OF_AUTH, fault_of, init
from tests.docs.blocks import blocks
from tests.serving import free_port

PAGE = (Path(__file__).parents[2] / "docs/getting_started.md").read_text()
CHAT_MODEL = "demo-chat"
SECRET = demo.SECRETS["CHAT_SECRET"]


def command(start: str) -> list[str]:
    """The arguments of the one command of the page that starts so."""
    lines = re.sub(r"\\\n\s*", "", "".join(blocks(PAGE, "sh"))).splitlines()
    (line,) = [line for line in lines if line.startswith(start)]
    return shlex.split(line)[1:]


async def run(
    arguments: list[str], folder: Path, variables: Mapping[str, str], module: Sequence[str] = ("-m", "gatepass")
) -> str:
    """The output of `gatepass`, or of Python without a module, with these arguments in `folder`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", *module, *arguments),
        cwd=folder,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@asynccontextmanager
async def served(folder: Path, variables: Mapping[str, str]) -> AsyncIterator[None]:
    """`gatepass serve` in `folder`, once it listens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gatepass", *command("gatepass serve")),
        cwd=folder,
        env={**os.environ, **variables},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert process.stderr is not None
    try:
        while b'"event":"listening"' not in (line := await process.stderr.readline()):
            assert line, "gatepass serve ended"
        yield
    finally:
        process.terminate()
        await process.communicate()


async def test_the_steps_of_the_page_connect_two_clients(tmp_path: Path) -> None:
    port, variables = free_port(), {"XDG_RUNTIME_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
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
        printed = await run(arguments, tmp_path, {**variables, "CORP_SECRET": SECRET})
        keys = re.findall(r"gp-[\w-]+", printed)
        shown = next(block for block in blocks(PAGE, "text") if "API key" in block)
        values = re.sub(r"gp-[\w-]+", "gp-…", printed).replace("127.0.0.1", "HOST")
        assert shown in values

        file = tmp_path / "gatepass.yaml"
        file.write_text(file.read_text().replace("port: 8080", f"port: {port}"))
        whole, streamed = re.findall(r"-d '(.*)'", "".join(blocks(PAGE, "sh")).replace("gpt-4o", CHAT_MODEL))
        variables["CORP_SECRET"] = SECRET
        async with served(tmp_path, variables):
            (program,) = blocks(PAGE, "python")
            program = program.replace("8080", str(port)).replace("gpt-4o", CHAT_MODEL)
            said = await run(["-c", program], tmp_path, {**variables, "KEY": keys[0]}, module=())
            assert said == f"{answer([{'content': 'Hello'}])}\n"
            keys += await second_client(file, variables)
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


async def second_client(file: Path, variables: Mapping[str, str]) -> list[str]:
    """Create the second key in the file, reload, and compare both outputs with the page. Return the key."""
    printed = await run(command("gatepass keys new"), file.parent, variables)
    (console,) = blocks(PAGE, "console")
    for part in re.split(r"^\$ gatepass ", console, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        hidden = [
            re.sub(r"sha256:\w+|\b[0-9a-f]{8}$", "…", text, flags=re.MULTILINE)
            for text in (await run(line.split(), file.parent, variables), shown)
        ]
        assert hidden[0] == hidden[1], line
    return re.findall(r"gp-[\w-]+", printed)


def test_the_options_of_a_json_login_are_accepted() -> None:
    arguments = command("gatepass init --yes --base-url https://llm.corp.example/v1 --auth login")
    options = init.make_context("init", arguments[1:]).params
    assert not [name for name in OF_AUTH["login"] if fault_of(name, options[name])]
