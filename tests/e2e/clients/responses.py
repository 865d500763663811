"""The Responses API of the strict upstream: a text as one reply or as its events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.e2e.clients.conversation import QUESTION
from tests.integration.scripted import chunk, head, reply
from tests.integration.strict_azure import TEXT, USAGE, Refused

MEMBERS = frozenset(
    (
        *("model", "input", "instructions", "stream", "temperature", "max_output_tokens", "tools", "tool_choice"),
        *("parallel_tool_calls", "include", "store", "metadata", "text", "reasoning", "truncation", "top_p"),
        *("previous_response_id", "user"),
    )
)
Document = dict[str, Any]


def respond(body: Mapping[str, Any]) -> bytes:
    """Return the reply to a request; raise Refused for a parameter that the API does not know."""
    unknown = [name for name in body if name not in MEMBERS]
    if unknown:
        raise Refused(f"Unknown parameter: '{unknown[0]}'.", param=unknown[0], code="unknown_parameter")
    if QUESTION not in json.dumps(body["input"], ensure_ascii=False):
        raise Refused("The question is missing.", param="input")
    if not body.get("stream"):
        return reply(_response(body, "completed", [_message(TEXT)]))
    events = b"".join(chunk(_event(number, event)) for number, event in enumerate(_events(body)))
    return head(200, content_type="text/event-stream", transfer_encoding="chunked") + events + b"0\r\n\r\n"


def _event(number: int, document: Document) -> bytes:
    data = json.dumps({**document, "sequence_number": number}, ensure_ascii=False)
    return f"event: {document['type']}\ndata: {data}\n\n".encode()


def _response(body: Mapping[str, Any], status: str, output: list[Document]) -> Document:
    usage = {
        "input_tokens": USAGE["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": USAGE["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": USAGE["total_tokens"],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1.0,
        "status": status,
        "model": body["model"],
        "output": output,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }


def _message(text: str, status: str = "completed") -> Document:
    content = [_part(text)] if text else []
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> Document:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _events(body: Mapping[str, Any]) -> Iterator[Document]:
    """Yield the events of a text in the order of the API."""
    position = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield {"type": "response.created", "response": _response(body, "in_progress", [])}
    yield {"type": "response.in_progress", "response": _response(body, "in_progress", [])}
    yield {"type": "response.output_item.added", "output_index": 0, "item": _message("", "in_progress")}
    yield {"type": "response.content_part.added", **position, "part": _part("")}
    for at in range(0, len(TEXT), 4):
        yield {"type": "response.output_text.delta", **position, "delta": TEXT[at : at + 4], "logprobs": []}
    yield {"type": "response.output_text.done", **position, "text": TEXT, "logprobs": []}
    yield {"type": "response.content_part.done", **position, "part": _part(TEXT)}
    yield {"type": "response.output_item.done", "output_index": 0, "item": _message(TEXT)}
    yield {"type": "response.completed", "response": _response(body, "completed", [_message(TEXT)])}
