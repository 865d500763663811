"""The page at /ui of `gatepass serve`, with two workers: sessions, sums, doctor, and the configuration."""

import json
from pathlib import Path
from typing import Any

from gatepass.auth.api_keys import hash_key
from tests.integration.gateway import Answer, Ask
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.workers.test_supervisor import started
from tests.waiting import until_async

KEY = "gp-admin-0123456789abcdef"
ACCESS = {"keys": [{"name": "alice", "role": "admin", "hash": hash_key(KEY)}]}
CHAT = {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "yes"}}]}


class Browser:
    """Opens a new connection for each request, so that any worker serves it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""

    def ask(self, method: str, path: str, body: Any = None) -> Ask:
        fields = {"origin": f"http://127.0.0.1:{self.port}", "cookie": self.cookie, "content-type": "application/json"}
        return Ask(self.port, method, f"/ui/api/{path}", fields, b"" if body is None else json.dumps(body).encode())

    async def answer(self, method: str, path: str, body: Any = None) -> Answer:
        return await self.ask(method, path, body).answer()

    async def sign_in(self) -> None:
        answer = await self.answer("POST", "login", {"key": KEY})
        self.cookie = answer.headers["set-cookie"].partition(";")[0]


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)


async def test_a_session_is_that_of_all_workers_and_the_page_sums_them(tmp_path: Path):
    async with Scripted(answer=lambda _: [Send(reply(CHAT))]) as upstream:
        configuration = {
            "server": {"ui": True, "drain_timeout_s": 1},
            "upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}},
            "access": ACCESS,
        }
        async with started(tmp_path, configuration) as running:
            browser = Browser(await running.port)
            await running.pids()
            await browser.sign_in()

            async def workers() -> int:
                return int((await browser.answer("GET", "overview")).json()["workers"])

            await until_async(lambda: _is(workers(), 2))
            fields = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
            body = b'{"model": "m", "messages": []}'
            for _ in range(10):
                assert (await Ask(browser.port, "POST", "/v1/chat/completions", fields, body).answer()).status == 200
            overview = (await browser.answer("GET", "overview")).json()
            (caller,) = overview["callers"]
            assert (caller["name"], caller["requests"], caller["errors"]) == ("alice", 10, 0)
            (shown,) = overview["upstreams"]
            assert (shown["requests_15m"], shown["health"], sum(overview["series"]["requests"])) == (10, "ok", 10)
            steps = await browser.answer("POST", "doctor", {"model": None, "call": False})
            names = [line.partition(": ")[2] for line in steps.body.decode().splitlines() if line.startswith("event")]
            assert names[0] == "begin"
            assert names[-1] == "end"
            found = {(json.loads(one).get("hop"), json.loads(one).get("outcome")) for one in steps.events}
            assert ("upstream:chat", "works") in found
            await running.logged('"page_action".*"action":"doctor","caller":"alice"')
            assert {(await browser.answer("GET", "overview")).status for _ in range(20)} == {200}
            assert (await browser.answer("POST", "logout", {})).status == 200
            assert {(await browser.answer("GET", "overview")).status for _ in range(20)} == {401}
