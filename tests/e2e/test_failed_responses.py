"""Real clients read streams of the Responses API that are silent for a while. test_sdk_tasks.py has their errors.

The upstream has the Responses API, or chat completions alone.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import pytest

from gatepass.protocols.responses import synthesize_response
from gatepass.proxy.client_response import EVERY_S
from gatepass.sse.chunk import EnvelopeDefaults
from tests.e2e.clients import chats
from tests.e2e.clients.measurement import CLIENTS, RUNNERS, Client
from tests.e2e.servers import installed
from tests.integration.gateway import gateway
from tests.integration.scripted import LAST_CHUNK, Dialogue, Scripted, Send, Wait, chunk, stream
from tests.unit.clock import DrivenClock
from tests.unit.sse.responses import message, part, response

WHOLE = response(message(part("Hello", logprobs=[])))
EVENTS = [*synthesize_response(WHOLE, EnvelopeDefaults("{}1".format, 7, "m"), "u")]
CHUNKS = chats.chunks(chats.completion("Hello"))
PYTHON = {"try_openai.py": ("create", "stream"), "try_agents.py": ("agents",), "try_langchain.py": ("langchain",)}


@dataclass(frozen=True, slots=True)
class Way:
    client: Client
    name: str

    async def run(self, port: int) -> Any:
        command, script = [*map(str, self.client.command()), self.name], b""
        if self.client.is_node:
            script = (RUNNERS / "failed_response.mjs").read_bytes()
        else:
            command = [command[0], str(RUNNERS / "failed_response.py"), self.name]
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "none"},
            cwd=installed(self.client.folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return json.loads((await asyncio.wait_for(process.communicate(script), 60))[0])


def ways(client: Client) -> tuple[str, ...]:
    return ("create", "stream") if client.runner == "try_openai.mjs" else PYTHON.get(client.runner, ())


each_way = pytest.mark.parametrize(
    "way",
    [Way(client, name) for client in CLIENTS for name in ways(client)],
    ids=lambda way: f"{way.client.title}, {way.name}",
)


each_protocol = pytest.mark.parametrize("over_chats", [False, True], ids=["relayed", "over chats"])


def upstreams(url: str, *, over_chats: bool) -> dict[str, Any]:
    return {"chat": {"base_url": f"{url}/v1", **({"protocols": ["chat"]} if over_chats else {})}}


@each_protocol
@each_way
async def test_keep_alives_in_a_silent_stream_leave_the_answer_whole(way: Way, over_chats: bool):
    clock, go = DrivenClock(), asyncio.Event()
    events = CHUNKS if over_chats else EVENTS
    silent: Dialogue = [
        Send(stream(*events[:3], end=b"")),
        Wait(go),
        Send(b"".join(map(chunk, events[3:])) + LAST_CHUNK),
    ]
    async with (
        Scripted(silent) as upstream,
        gateway(upstreams=upstreams(upstream.url, over_chats=over_chats), clock=clock) as gp,
    ):
        running = asyncio.create_task(way.run(gp.port))
        await upstream.requested()
        await asyncio.sleep(0.2)  # the client receives the first events
        for _ in range(3):
            await clock.advance(EVERY_S + 1)
        go.set()
        ended = await running
    assert (ended["text"], ended["error"]) == ("Hello", None)
    if way.name == "create":
        assert ended["seen"].count("keepalive") == 3
