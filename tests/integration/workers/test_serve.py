"""`gatepass serve` before it serves, as a process: what its workers are started with, and a stop at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path

from tests.integration.workers.test_shared_tokens import arguments
from tests.integration.workers.test_supervisor import Supervised

CONFIGURATION = {"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}
BOUND_S = 30.0


async def process(*arguments: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment
    )


async def outcome(program: str) -> tuple[int | None, str]:
    """The exit code of a Python program, and what it said."""
    ran = await process("-c", program)
    async with asyncio.timeout(BOUND_S):
        out, _ = await ran.communicate()
    return ran.returncode, out.decode()


def written(folder: Path, **blocks: object) -> str:
    path = folder / "gatepass.json"
    path.write_text(json.dumps({**CONFIGURATION, **blocks}))
    return str(path)


async def test_host_and_port_of_the_command_line_count_for_the_workers_too(tmp_path):
    """Without the flag the file could not be used: a host so wide wants keys."""
    config = written(tmp_path, server={"host": "0.0.0.0", "port": 1})
    flags = ("--host", "127.0.0.1", "--port", "0", "--workers", "2")
    running = Supervised(await process("-m", "gatepass", "serve", "--config", config, *flags))
    reading = asyncio.create_task(running.read())
    try:
        assert await running.port
        told = arguments((await running.pids())[0])
        assert told[3 : told.index("--worker")] == [
            *("serve", "--config", config, "--host", "127.0.0.1", "--port", "0"),
            *("--log-format", "json"),
        ]
    finally:
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        await reading
    assert not any("worker_died" in line for line in running.lines)


async def test_workers_that_cannot_use_the_configuration_end_all_with_code_2(tmp_path):
    """As where a certificate was taken away since the supervisor had read the file."""
    code, said = await outcome(
        "import sys\n"
        "from gatepass.cli import main, serve\n"
        "told = 'import sys; print(\"cannot be used\"); sys.exit(2)'\n"
        "serve._worker_command = lambda *_: [sys.executable, '-c', told]\n"
        f"main(['serve', '--config', {written(tmp_path)!r}, '--port', '0', '--workers', '2'])\n"
    )
    assert code == 2
    assert "cannot be used" in said
    assert "worker_died" not in said


async def test_a_sigterm_before_anything_began_ends_at_once_whatever_catches_exceptions():
    code, said = await outcome(
        "import os, signal\n"
        "from gatepass.cli import main, serve\n"
        "def imports(*_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        for _ in range(100_000): pass\n"
        "    except BaseException:\n"
        "        pass\n"
        "    print('went on', flush=True)\n"
        "    os._exit(9)\n"
        "serve.load_or_exit = imports\n"
        "main(['serve'])\n"
    )
    assert (code, said) == (0, "")
