"""The `openai` clients for Node read the failure of a started stream of the Responses API."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from tests.e2e.clients.measurement import CLIENTS, RUNNERS, Client
from tests.e2e.servers import installed
from tests.integration.gateway import gateway
from tests.integration.scripted import Fin, Pause, Scripted
from tests.integration.test_failed_responses import BEGINNING

NODES = [client for client in CLIENTS if client.runner == "try_openai.mjs"]


async def run(client: Client, way: str, port: int) -> tuple[list[str], dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        *map(str, client.command()),
        way,
        env={**os.environ, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "none"},
        cwd=installed(client.folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    script = (RUNNERS / "failed_response.mjs").read_bytes()
    printed = json.loads((await asyncio.wait_for(process.communicate(script), 60))[0])
    return printed["seen"], printed["error"]


@pytest.mark.parametrize("way", ["create", "stream"])
@pytest.mark.parametrize("client", NODES, ids=lambda client: client.title)
async def test_openai_node_throws_the_error(client: Client, way: str):
    # the pause lets the client receive the first events before the failure
    async with Scripted([BEGINNING, Pause(0.3), Fin()]) as upstream, gateway(upstream=upstream.url) as gp:
        seen, error = await run(client, way, gp.port)
    assert (error["name"], error["code"]) == ("APIError", "upstream_closed")
    assert "closed the connection before its reply was complete" in error["message"]
    assert set(seen) <= {"response.created", "response.in_progress", "response.output_item.added"}
