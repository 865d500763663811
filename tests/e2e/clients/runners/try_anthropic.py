"""Call gatepass with Anthropic's client for Python, and print what the client makes of the answers as JSON.

The base URL and the key come from ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY, the calls from standard input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter, ValidationError

client = anthropic.Anthropic(max_retries=0)


def document(answer: Any) -> Any:
    return answer.to_dict(mode="json")


def streamed(body: Any) -> Any:
    with client.messages.stream(**body) as stream:
        text = "".join(stream.text_stream)
        return {"message": document(stream.get_final_message()), "text": text}


def raw(body: Any) -> list[str]:
    return [event.type for event in client.messages.create(**body, stream=True)]


def validity(body: Any) -> dict[str, Any]:
    """Return the differences of what was received from the types of the SDK, strictly, and the number of documents."""
    with client.messages.with_streaming_response.create(**body) as answer:
        received = answer.read()
    documents, kind = [received], TypeAdapter[Any](Message)
    if body.get("stream"):
        events = [line.removeprefix(b"data:") for line in received.splitlines() if line.startswith(b"data:")]
        documents = [one for one in events if json.loads(one)["type"] != "ping"]
        kind = TypeAdapter(RawMessageStreamEvent)
    invalid = []
    for one in documents:
        try:
            kind.validate_json(one, strict=True)
        except ValidationError as error:
            invalid.append(str(error))
    return {"invalid": invalid, "checked": len(documents)}


WAYS: dict[str, Any] = {
    "create": lambda body: document(client.messages.create(**body)),
    "stream": streamed,
    "raw": raw,
    "valid": validity,
    "beta": lambda body: document(client.beta.messages.create(**body, betas=["made-up-2027-01-01"])),
    "count": lambda body: document(client.messages.count_tokens(**body)),
    "batches": lambda _: [document(one) for one in client.messages.batches.list(limit=2)],
}


def outcome(way: str, body: Any) -> dict[str, Any]:
    try:
        return {"answer": WAYS[way](body)}
    except anthropic.APIStatusError as error:
        inner = error.body.get("error") if isinstance(error.body, dict) else None
        return {"error": type(error).__name__, "status": error.status_code, "inner": inner}


print(json.dumps([outcome(way, body) for way, body in json.load(sys.stdin)]))
