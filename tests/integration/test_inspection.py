"""The request inspector over real sockets: lists and stories by the control socket."""

import json
from pathlib import Path
from typing import Any

from gatepass.cli.control import request
from tests.integration.gateway import Ask
from tests.integration.processes import started
from tests.integration.scripted import Scripted, Send, reply
from tests.waiting import until

CHAT = {"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "yes"}}]}


def listing(path: Path, query: str = "") -> dict[str, Any]:
    page: dict[str, Any] = json.loads(request("GET", f"/requests{query}", str(path)))
    return page


async def test_a_request_is_listed_and_told_by_any_of_its_ids(tmp_path: Path):
    path = tmp_path / "own" / "control.sock"
    async with Scripted(answer=lambda _: [Send(reply(CHAT, x_request_id="up-7"))]) as upstream:
        configuration = {
            "server": {"control_socket": str(path), "drain_timeout_s": 1},
            "upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}},
        }
        async with started(tmp_path, configuration) as running:
            port = await running.port
            for name in ("first", "second"):
                fields = {"content-type": "application/json", "x-request-id": name}
                ask = Ask(port, "POST", "/v1/chat/completions", fields, b'{"model": "m", "messages": []}')
                assert (await ask.answer()).status == 200
            await until(lambda: len(listing(path)["requests"]) == 2)
            page = listing(path)
            assert [one["id"] for one in page["requests"]] == ["second", "first"]
            assert [one["id"] for one in listing(path, "?text=FIRST")["requests"]] == ["first"]
            cursor = page["requests"][0]["ended"]
            assert [one["id"] for one in listing(path, f"?ended_after={cursor}")["requests"]] == ["second"]
            for within_s, ids in ((600, ["second", "first"]), (0, [])):
                assert [one["id"] for one in listing(path, f"?within_s={within_s}")["requests"]] == ids
            for wanted, found in (("first", 1), ("up-7", 2), ("other", 0), ("a%2Fb", 0)):
                told = json.loads(request("GET", f"/requests/{wanted}", str(path)))["stories"]
                assert len(told) == found
            story = json.loads(request("GET", "/requests/first", str(path)))["stories"][0]
            assert (story["status"], story["attempts"][0]["upstream"], story["error"]) == (200, "chat", None)
