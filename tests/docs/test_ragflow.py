"""docs/ragflow.md: its commands fit the files of `deploy`, and what it shows of `curl` is what gatepass sends."""

import json
import re
from pathlib import Path
from typing import Any

from tests.docs.blocks import blocks
from tests.e2e.container.compose import DEPLOY, EXAMPLE, document, example_variables
from tests.integration.gateway import CHAT, JSON, relaying
from tests.integration.scripted import Dialogue, Received, Send, reply

TEXT = (Path(__file__).parents[2] / "docs" / "ragflow.md").read_text()
REJECTION = {
    "message": "Unsupported value: 'temperature' does not support 0.9 with this model. Only the default (1) value is"
    " supported.",
    "type": "invalid_request_error",
    "param": "temperature",
    "code": "unsupported_value",
}


def block(language: str) -> str:
    """Return the block of the check with `curl`."""
    section = TEXT.partition("\n## Check\n")[2]
    *_, found = blocks(section, language)
    return str(found)


def answer(request: Received) -> Dialogue:
    body = request.json()
    if "temperature" in body:
        return [Send(reply({"error": REJECTION}, 400))]
    events = block("text").partition("\n\n")[2]
    return [Send(reply(events.encode() + b"\n", content_type="text/event-stream"))]


async def test_the_check_by_curl_receives_what_the_page_shows() -> None:
    sent: Any = json.loads(re.findall(r"-d '(.*)'", block("sh"))[0])
    head, _, events = block("text").partition("\n\n")
    status, *headers = head.splitlines()
    async with relaying(answer=answer) as (_, served):
        received = await served.ask(sent, CHAT, headers=JSON).answer()
    assert status == f"HTTP/1.1 {received.status} OK"
    assert received.body.decode() == f"{events}\n"
    for line in headers:
        name, _, value = line.partition(": ")
        assert received.headers[name] == value


def test_six_commands_start_gatepass_with_the_files_of_the_repository() -> None:
    start = TEXT.partition("\n## Start gatepass beside RAGFlow\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", start, re.MULTILINE | re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines()]
    assert len(commands) == 6
    assert commands[1].split("gatepass:local ")[1] in (DEPLOY / "ragflow.env.example").read_text()
    service = document({**example_variables(), "GATEPASS_KEY_HASHES": "x"})
    assert commands[3].endswith(f"deploy/{Path(service['secrets']['client_secret']['file'])}")
    assert "USER 65532" in (DEPLOY.parent / "Dockerfile").read_text()
    named = [name for command in commands for name in re.findall(r"deploy/\S+(?:yaml|example)", command)]
    assert [name for name in named if not (DEPLOY.parent / name).exists()] == []
    shown = {
        name for cell in re.findall(r"^   \| (`[A-Z].*?) \|", TEXT, re.MULTILINE) for name in re.findall(r"\w+", cell)
    }
    assert shown == set(re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
