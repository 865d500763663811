"""What else the strict upstream has beside chats, vectors and ranks: pictures, moderation, files."""

from __future__ import annotations

import re
from typing import Any

from tests.e2e.clients.conversation import PICTURE, QUESTION
from tests.integration.scripted import Received, reply
from tests.integration.strict_azure import Refused

DRAWN = PICTURE
KEPT = b'{"custom_id": "1", "note": "\xe8\x93\x9d"}\r\n--not-a-boundary\r\n'
"""A file of which no byte may change."""
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": len(KEPT),
    "created_at": 1,
    "filename": "batch.jsonl",
    "purpose": "batch",
    "status": "processed",
}
CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)


def draw(request: Received) -> bytes:
    said = _members(request, {"model", "prompt", "n", "size", "response_format"})
    if said["prompt"] != QUESTION:
        raise Refused("The question got lost.", param="prompt")
    return reply({"created": 1, "data": [{"b64_json": DRAWN}]})


def moderate(request: Received) -> bytes:
    said = _members(request, {"model", "input"})
    verdict = {
        "flagged": said["input"] == QUESTION,
        "categories": dict.fromkeys(CATEGORIES, False),
        "category_scores": dict.fromkeys(CATEGORIES, 0.5),
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }
    return reply({"id": "modr-1", "model": said["model"], "results": [verdict]})


def keep(request: Received) -> bytes:
    boundary = (request.header("content-type") or "").partition("boundary=")[2].strip('"').encode()
    names = re.findall(rb'form-data; name="(\w+)"', request.body)
    if not boundary or sorted(names) != [b"file", b"purpose"] or KEPT + b"\r\n--" + boundary not in request.body:
        raise Refused("The file is not the one that was sent.", param="file")
    return reply(FILE)


def kept(_: Received) -> bytes:
    return reply(KEPT, content_type="application/octet-stream")


def _members(request: Received, known: set[str]) -> dict[str, Any]:
    said: dict[str, Any] = request.json()
    strays = [name for name in said if name not in known]
    if strays:
        raise Refused(f"Unrecognized request argument supplied: {strays[0]}")
    return said
