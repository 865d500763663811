"""The compliance runner of Open Responses, over HTTP, at an upstream that is relayed by gatepass, or has chats alone.

`OPEN_RESPONSES` names a folder with github.com/openresponses/openresponses and its `node_modules`; `BUN` names the bun
that runs it, if it is not on the PATH. Tested with commit 92c12d9 (2026-07-15), which has the OpenAPI document of
2026-04-24.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gatepass.protocols.responses import synthesize_response
from gatepass.sse.chunk import EnvelopeDefaults
from tests.e2e.clients import chats
from tests.integration.gateway import gateway
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, reply, stream
from tests.unit.sse.responses import USAGE, call, message, part, response

FOLDER = Path(os.environ.get("OPEN_RESPONSES", "none"))
BUN = os.environ.get("BUN") or shutil.which("bun")
OVER_HTTP = (
    *("basic-response", "assistant-phase", "streaming-response", "system-prompt", "tool-calling"),
    *("image-input", "multi-turn", "compact-response", "compact-missing-model"),
)
OF_CHATS = OVER_HTTP[:-2]
"""Over chats alone, a compaction is a 404 that names `protocols`."""
RUN_S = 60
UNSET = ("completed_at", "incomplete_details", "previous_response_id", "instructions", "error", "reasoning")
MEMBERS: dict[str, Any] = {
    **dict.fromkeys((*UNSET, "max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key")),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "top_logprobs"), 0),
    "created_at": 7,
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "top_p": 1,
    "temperature": 1,
    "store": False,
    "background": False,
    "service_tier": "default",
    "metadata": {},
}
"""The members that the runner requires of every response."""

pytestmark = pytest.mark.skipif(
    not (FOLDER / "bin" / "compliance-test.ts").is_file() or BUN is None,
    reason="set OPEN_RESPONSES to a folder with the compliance runner and its node_modules, and BUN to bun",
)


def answered(request: Received, *, streams: bool) -> Dialogue:
    asked = request.json()
    if request.target.endswith("/compact"):
        compaction = {"id": "cmp_1", "type": "compaction", "encrypted_content": "x"}
        document = {"id": "resp_c", "object": "response.compaction", "created_at": 7, "output": [compaction]}
        return [Send(reply({**document, "usage": USAGE}))]
    tools = [{"strict": None, **tool} for tool in asked.get("tools", ())]
    item = call(name="get_weather") if tools else message(part("Hello.", logprobs=[]))
    document = response(item, **MEMBERS, tools=tools)
    if not (streams and asked.get("stream")):
        return [Send(reply(document))]
    events = synthesize_response(document, EnvelopeDefaults("{}1".format, 7, "m"), "u")
    return [Send(stream(*events, end=LAST_CHUNK))]


def chat(request: Received, *, streams: bool) -> Dialogue:
    asked = request.json()
    calls = {"call_1": {"location": "Paris"}} if asked.get("tools") else {}
    document = chats.completion("" if calls else "Hello.", calls, name="get_weather", reasoning_content="Hm, this.")
    return [Send(stream(*chats.chunks(document)) if streams and asked.get("stream") else reply(document))]


@pytest.mark.parametrize(
    ("answer", "protocols", "checks"),
    [(answered, {}, OVER_HTTP), (chat, {"protocols": ["chat"]}, OF_CHATS)],
    ids=["relayed", "over chats"],
)
@pytest.mark.parametrize("streams", [True, False])
async def test_the_compliance_runner_passes(streams, answer, protocols, checks):
    async with (
        Scripted(answer=lambda request: answer(request, streams=streams)) as upstream,
        gateway(upstreams={"chat": {"base_url": f"{upstream.url}/v1", **protocols}}) as gp,
    ):
        options = ("--base-url", f"http://127.0.0.1:{gp.port}/v1", "--api-key", "none", "--model", "m", "--json")
        process = await asyncio.create_subprocess_exec(
            *(str(BUN), "run", "bin/compliance-test.ts", *options, "--filter", ",".join(checks)),
            cwd=FOLDER,
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await asyncio.wait_for(process.communicate(), RUN_S)
    results = json.loads(printed)["results"]
    assert {one["id"]: one.get("errors") or [] for one in results} == {name: [] for name in checks}
    assert {one["status"] for one in results} == {"passed"}
