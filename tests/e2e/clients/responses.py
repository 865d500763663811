"""The Responses API of the strict upstream: a text as one reply or as its events."""

import json
from typing import Any

from tests.e2e.clients.conversation import QUESTION
from tests.e2e.hosts.turns import Turn
from tests.e2e.hosts.upstream import Responses
from tests.integration.scripted import LAST_CHUNK, reply, stream
from tests.integration.strict_azure import TEXT, USAGE, Refused

MEMBERS = frozenset(
    (
        *("model", "input", "instructions", "stream", "temperature", "max_output_tokens", "tools", "tool_choice"),
        *("parallel_tool_calls", "include", "store", "metadata", "text", "reasoning", "truncation", "top_p"),
        *("previous_response_id", "user"),
    )
)


def respond(body: dict[str, Any]) -> bytes:
    """Return the reply to a request; raise Refused for a parameter that the API does not know."""
    unknown = [name for name in body if name not in MEMBERS]
    if unknown:
        raise Refused(f"Unknown parameter: '{unknown[0]}'.", param=unknown[0], code="unknown_parameter")
    if QUESTION not in json.dumps(body["input"], ensure_ascii=False):
        raise Refused("The question is missing.", param="input")
    events = Responses.events(body, Turn(TEXT), USAGE["prompt_tokens"], USAGE["completion_tokens"])
    if body.get("stream"):
        return stream(*events, end=LAST_CHUNK)
    return reply(json.loads(events[-1].partition(b"data: ")[2])["response"])
