"""Run gatepass with an issuer and an upstream, and do what each line of the input says.

`python -m tests.ui.company FOLDER` prints the URL of the page and a key, and then the result of each command, as JSON.
`chat` is a whole request. A stream sends one event after `begin`, and the rest after `end`. The tests of the page start
it, as they start tests/ui/staged.py.
"""

import asyncio
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.integration.answers import COMPLETION, EVENTS, delta
from tests.integration.gateway import Ask
from tests.integration.processes import started
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, Wait, begin_stream, chunk, reply
from tests.integration.staged_faults import ADMIN, CALLER


def configuration(url: str) -> dict[str, Any]:
    login = {"type": "oauth2", "token_url": f"{url}/token", "client_id": "gatepass", "client_secret": "s" * 24}
    keys = (("anna", "admin", ADMIN), ("ragflow", "caller", CALLER))
    return {
        "server": {"ui": True, "base_path": "/llm", "control_socket": "off", "drain_timeout_s": 0},
        "credentials": {"corp": login},
        "upstreams": {name: {"base_url": f"{url}/v1", "credential": "corp"} for name in ("corp", "spare")},
        "models": {"gpt-4o": {"upstream": "corp"}, "small": {"upstream": "spare"}},
        "access": {
            "keys": [
                {"name": name, "role": role, "hash": f"sha256:{sha256(key.encode()).hexdigest()}"}
                for name, role, key in keys
            ]
        },
    }


class Company:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.more = asyncio.Event()

    def answer(self, request: Received) -> Dialogue:
        if request.target == "/token":
            return [Send(reply({"access_token": "a-token", "expires_in": 60}))]
        if request.method == "GET":
            return [Send(reply({"object": "list", "data": []}))]
        if not request.json().get("stream"):
            return [Send(reply(COMPLETION))]
        rest = b"".join(map(chunk, (delta(content="light"), *EVENTS))) + LAST_CHUNK
        return [*begin_stream(x_request_id="upstream-7"), Send(chunk(delta(content="A "))), Wait(self.more), Send(rest)]

    async def serve(self) -> None:
        async with Scripted(answer=self.answer) as upstream, started(self.folder, configuration(upstream.url)) as one:
            self.port = await one.port
            print(json.dumps({"url": f"http://127.0.0.1:{self.port}/llm/ui/", "admin": ADMIN}), flush=True)
            while command := await asyncio.to_thread(sys.stdin.readline):
                print(json.dumps(await self.do(command.strip())), flush=True)
            self.more.set()

    async def do(self, command: str) -> int | None:
        match command:
            case "chat":
                return await self.status(stream=False)
            case "begin":
                self.stream = asyncio.create_task(self.status(stream=True))
            case "end":
                self.more.set()
                return await self.stream
        return None

    async def status(self, *, stream: bool) -> int:
        fields = {"content-type": "application/json", "authorization": f"Bearer {CALLER}"}
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is this?"}], "stream": stream}
        ask = Ask(self.port, "POST", "/llm/v1/chat/completions", fields, json.dumps(body).encode())
        return (await ask.answer()).status


if __name__ == "__main__":
    asyncio.run(Company(Path(sys.argv[1])).serve())
