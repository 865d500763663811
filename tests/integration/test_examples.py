"""The programs of examples/: alone, and together as `make demo` starts them, with shorter tokens."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT

import jwt
import pytest
from examples import caller_issuer, client, demo
from httpx2 import ASGITransport, AsyncClient

EXAMPLES = Path(demo.__file__).parent
STEPS = {step.__name__: "ok" for step in client.STEPS}


@asynccontextmanager
async def started(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The demo, where a user's environment has what must not reach its own hops."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, f"{EXAMPLES}/demo.py", "--lifetime=4", *options),
        stdout=PIPE,
        stderr=STDOUT,
        env=demo.environment() | {"HTTP_PROXY": "http://127.0.0.1:9", "GATEPASS_CONFIG": "/nowhere.yaml"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


def results(output: str) -> dict[str, str]:
    """Return the result of each step: `ok`, or `FAILED - ` and the reason."""
    return dict(re.findall(r"^   ([a-z]+): (ok|FAILED.*)$", output, re.MULTILINE))


@pytest.mark.parametrize("program", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_a_program_is_small_and_has_a_row_on_the_page(program: Path) -> None:
    assert len(program.read_text().splitlines()) < 120
    assert f"\n| `{program.name}` | " in (EXAMPLES / "README.md").read_text()


async def test_the_demo_ends_by_itself_once() -> None:
    async with started("--once") as process:
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0, output
    assert results(output) == STEPS
    assert "x-gatepass-adapted: images" in output
    of_chat = re.findall(r"issuer: new token (\w{8}) for demo-chat", output)
    used = re.findall(r"answered, with token (\w{8})", output)
    assert len(used) > 1
    assert set(used) <= set(of_chat)
    assert not re.search(r"eyJ[\w-]{5}|secret-of", output)
    assert output.endswith("The demo has stopped its servers.\n")


async def test_the_demo_serves_until_a_signal_and_prints_a_command() -> None:
    async with started() as process:
        assert process.stdout is not None
        try:
            output = (await process.stdout.readuntil(b"}]}'\n")).decode()
        except asyncio.IncompleteReadError as error:
            pytest.fail(error.partial.decode())
        assert results(output) == STEPS, output
        shell = await asyncio.create_subprocess_shell(output[output.index("curl -N") :], stdout=PIPE, stderr=PIPE)
        answer, _ = await shell.communicate()
        assert answer.startswith(b"data: ")
        assert answer.endswith(b"data: [DONE]\n\n")
        process.send_signal(signal.SIGINT)
        rest = (await process.stdout.read()).decode()
        assert rest.endswith("The demo has stopped its servers.\n")
        assert await process.wait() == 0


async def test_a_signal_ends_the_run_without_a_result() -> None:
    async with started("--once") as process:
        assert process.stdout is not None
        await process.stdout.readuntil(b"1. A streamed chat")
        process.send_signal(signal.SIGTERM)
        rest = (await process.stdout.read()).decode()  # ends when no program of the demo has its output any more
        assert await process.wait() == 1
        assert "Traceback" not in rest
        assert rest.endswith("The demo has stopped its servers.\n")


async def test_a_token_names_its_key_so_that_another_start_of_the_issuer_is_another_kid() -> None:
    kids = []
    for _ in range(2):
        app = caller_issuer.create_app("http://issuer")
        async with AsyncClient(transport=ASGITransport(app), base_url="http://issuer") as asking:
            (key,) = (await asking.get("/keys")).json()["keys"]
            token = (await asking.get("/caller?name=alice&role=llm-user")).text
        assert jwt.decode(token, jwt.PyJWK(key), audience="api://gatepass")["roles"] == ["llm-user"]
        assert jwt.get_unverified_header(token)["kid"] == key["kid"]
        kids.append(key["kid"])
    assert kids[0] != kids[1]
