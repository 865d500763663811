"""Good answers, for tests that are about everything else."""

from typing import Any

from tests.integration.scripted import event

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1760000000,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
DETAILED_USAGE: dict[str, Any] = {
    "prompt_tokens": 40,
    "completion_tokens": 11,
    "total_tokens": 51,
    "prompt_tokens_details": {"cached_tokens": 32, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 7},
}
VECTORS: dict[str, Any] = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1.5]}],
    "model": "e",
}


def delta(finish: str | None = None, **fields: Any) -> bytes:
    """One event of a stream with one choice."""
    return event({"id": "x", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})


DONE = event("[DONE]")
EVENTS = (delta(content="hi"), delta("stop"), DONE)
