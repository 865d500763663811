"""`gatepass limits` with two workers, which count together."""

import asyncio
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gatepass.cli import main
from tests.integration.answers import COMPLETION
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.workers.test_supervisor import ask, both_answered, started

HEAD = ("OF", "LIMIT", "MOST", "USED", "LEFT", "MODE")


async def test_limits_are_listed_and_reset_for_all_workers(tmp_path: Path):
    socket = str(tmp_path / "control")

    async def limits(*arguments: str) -> str:
        command = ["limits", *arguments, "--socket", socket]
        return str((await asyncio.to_thread(CliRunner().invoke, main, command)).output)

    async with Scripted([Send(reply(COMPLETION))]) as upstream:
        chat = {"base_url": f"{upstream.url}/v1", "limits": {"requests": {"hour": 3}}}
        configuration: dict[str, Any] = {"server": {"drain_timeout_s": 1, "control_socket": socket}}
        async with started(tmp_path, {**configuration, "upstreams": {"chat": chat}}) as running:
            port = await running.port
            await both_answered(port)
            assert [(await ask(port)).status for _ in range(8)] == [200] * 3 + [429] * 5
            assert (await limits()).split() == [*HEAD, "upstream/chat", "requests.hour", "3", "3", "0", "enforce"]
            assert "has no limits" in await limits("reset", "upstream/other")
            shown = (await limits("reset", "upstream/chat")).split()
            assert shown == [*HEAD, "upstream/chat", "requests.hour", "3", "0", "3", "enforce"]
            assert [(await ask(port)).status for _ in range(8)] == [200] * 3 + [429] * 5
