"""Further operations of the strict upstream: image generation, moderation, files."""

import re
from typing import Any

from tests.e2e.clients.conversation import PICTURE, QUESTION
from tests.integration.scripted import Received, reply
from tests.integration.strict_azure import Refused

IMAGE = PICTURE
FILE_CONTENT = b'{"custom_id": "1", "note": "\xe8\x93\x9d"}\r\n--not-a-boundary\r\n'
"""The content of a file. Every byte must arrive unchanged."""
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": len(FILE_CONTENT),
    "created_at": 1,
    "filename": "batch.jsonl",
    "purpose": "batch",
    "status": "processed",
}
CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic"),
)


def generate_image(request: Received) -> bytes:
    body = _members(request, {"model", "prompt", "n", "size", "response_format"})
    if body["prompt"] != QUESTION:
        raise Refused("The question is missing.", param="prompt")
    return reply({"created": 1, "data": [{"b64_json": IMAGE}]})


def moderate(request: Received) -> bytes:
    body = _members(request, {"model", "input"})
    result = {
        "flagged": body["input"] == QUESTION,
        "categories": dict.fromkeys(CATEGORIES, False),
        "category_scores": dict.fromkeys(CATEGORIES, 0.5),
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }
    return reply({"id": "modr-1", "model": body["model"], "results": [result]})


def store_file(request: Received) -> bytes:
    boundary = (request.header("content-type") or "").partition("boundary=")[2].strip('"').encode()
    names = re.findall(rb'form-data; name="(\w+)"', request.body)
    if (
        not boundary
        or sorted(names) != [b"file", b"purpose"]
        or FILE_CONTENT + b"\r\n--" + boundary not in request.body
    ):
        raise Refused("The file is not the one that was sent.", param="file")
    return reply(FILE)


def file_content(_: Received) -> bytes:
    return reply(FILE_CONTENT, content_type="application/octet-stream")


def _members(request: Received, known: set[str]) -> dict[str, Any]:
    body: dict[str, Any] = request.json()
    unknown = [name for name in body if name not in known]
    if unknown:
        raise Refused(f"Unrecognized request argument supplied: {unknown[0]}")
    return body
