"""docs/production.md: each command prints the line that the page shows, at a gatepass with the file of the page.

docs/scaling.md: its figures are those of the benchmarks.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatepass.config.access import hash_key
from tests.docs.blocks import blocks
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.integration.store.real_server import INSTALLED, KEY, real_server
from tests.serving import free_port
from tests.waiting import until

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "production.md").read_text()
SCALING = (DOCS / "scaling.md").read_text()
KEYS = {name: f"gp-{name}-0123456789abcdef" for name in ("webapp", "prometheus", "alice")}


def commands() -> list[tuple[str, str]]:
    """Each command of the page with what it shows."""
    parts = [part for block in blocks(PAGE, "console") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def answer(request: Received) -> Dialogue:
    if "token" in request.target:
        return [Send(reply({"access_token": "minted", "token_type": "Bearer", "expires_in": 300}))]
    if request.header("authorization") != "Bearer minted":
        return [Send(reply({"error": {"message": "No token."}}, 401))]
    if "models" in request.target:
        return [Send(reply({"object": "list", "data": [{"id": "gpt-4o", "object": "model"}]}))]
    message = {"role": "assistant", "content": "Hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return [Send(reply({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}))]


def pattern_of(shown: str) -> str:
    """What the page shows, with any text in the place of an ellipsis, a time and the blanks around them."""
    text = re.escape(shown).replace(re.escape(" (0.01 s)"), r"( \(\d+(\.\d+)? s\))?")
    return re.sub(r"(?:\\ )*…(?:\\ )*", " *\\\\S+ *", text)


@asynccontextmanager
async def served(folder: Path, variables: dict[str, str]) -> AsyncIterator[None]:
    with (folder / "gatepass.log").open("wb") as log:
        program = str(Path(sys.executable).with_name("gatepass"))
        process = await asyncio.create_subprocess_exec(program, "serve", cwd=folder, env=variables, stderr=log)
    try:
        await until(lambda: '"event":"listening"' in (folder / "gatepass.log").read_text())
        variables["PID"] = str(process.pid)
        yield
    finally:
        if process.returncode is None:  # the last command has begun its drain
            process.kill()
        await process.wait()


async def printed(command: str, folder: Path, variables: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, cwd=folder, env=variables, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode()


@pytest.mark.parametrize("program", INSTALLED)
async def test_each_command_prints_the_line_of_the_page(program: str, tmp_path: Path) -> None:
    port = free_port()
    (text,) = blocks(PAGE, "yaml")
    for key in KEYS.values():
        text = text.replace("sha256:…", hash_key(key), 1)
    (tmp_path / "secrets").mkdir()
    for name in ("corp", "store_key"):
        file = tmp_path / "secrets" / name
        file.write_text(KEY)
        file.chmod(0o600)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    variables |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CLIENT_KEY": KEYS["webapp"],
        "VIEWER_KEY": KEYS["prometheus"],
        "XDG_RUNTIME_DIR": str(tmp_path),
        "GATEPASS_LIMITS_HELD_BYTES": str(512 << 20),  # in the place of a memory limit
    }
    here = {
        "https://gatepass.corp.example": f"http://127.0.0.1:{port}",
        "127.0.0.1:8080": f"127.0.0.1:{port}",
        "$(systemctl show -P MainPID gatepass)": "$PID",
    }
    wrong = {}
    with real_server(tmp_path, program) as store:
        async with Scripted(answer=answer) as corp:
            text = re.sub(r"https://(?:sso|llm)\.corp\.example", corp.url, text)
            text = re.sub(r"valkeys://[^\n]+", f"valkey://127.0.0.1:{store.port}/0", text)
            text = text.replace("host: 0.0.0.0", f"host: 0.0.0.0\n  port: {port}")
            (tmp_path / "gatepass.yaml").write_text(text)
            async with served(tmp_path, variables):
                for command, shown in commands():
                    run = command
                    for of_page, of_test in here.items():
                        run = run.replace(of_page, of_test)
                    output = await printed(run, tmp_path, variables)
                    if not re.fullmatch(pattern_of(shown), output):
                        wrong[command] = output
    assert wrong == {}, wrong


def test_the_figures_of_the_page_of_sizing_are_those_of_the_benchmarks() -> None:
    text = " ".join((DOCS / "benchmarks.md").read_text().split())
    for found in ("365 µs of CPU", "2,850 requests/s", "53.4 µs of CPU in 500 streams", "27 KiB for each slow stream"):
        assert found in text, found
    for found in ("2,850/s, 365 µs", "53 µs of CPU each: 19,000/s", "59 MB idle, and 27 KiB", "770/s"):
        assert found in SCALING, found
    assert "gatepass | 292 | 766 |" in text


def test_the_metrics_of_the_page_of_sizing_exist() -> None:
    known = set(re.findall(r"^## `(\w+)`$", (DOCS / "reference/metrics.md").read_text(), re.MULTILINE))
    named = set(re.findall(r"`(gatepass_\w+)`", SCALING))
    assert len(named) >= 4
    assert named <= known
