"""A strict upstream of Anthropic's Messages API, whose replies and errors have Anthropic's forms."""

from collections.abc import Callable, Mapping
from typing import Any

from gatepass.protocols.message_events import message_events
from gatepass.sse.chunk import EnvelopeDefaults, event_of
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Send, reply, stream

TEXT = {"type": "text", "text": 'It is 21 °C in "Paris".\n'}
THINKING = {"type": "thinking", "thinking": "The user asks about weather.", "signature": "EqQBCgIYAhIM"}
TOOL = {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {"city": "Paris", "days": [1, 2.5], "x": {}}}
FOUND = {
    "type": "web_search_result",
    "url": "https://e.example",
    "title": "E",
    "encrypted_content": "Eo",
    "page_age": None,
}
OTHER = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [FOUND]}
USAGE = {
    "input_tokens": 12, "output_tokens": 7, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5,
    "service_tier": "standard",
}  # fmt: skip


def message(*blocks: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "id": "msg_01", "type": "message", "role": "assistant", "model": "m", "content": [*blocks],
        "stop_reason": "end_turn", "stop_sequence": None, "stop_details": None, "usage": USAGE, **members,
    }  # fmt: skip


MESSAGE = message(THINKING, TEXT, TOOL, OTHER, stop_reason="tool_use")
ASKED: dict[str, Any] = {
    "model": "m",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Weather in Paris?"}],
    "stream": True,
}
WHOLE = {**ASKED, "stream": False}


def events(document: Mapping[str, Any] = MESSAGE) -> list[bytes]:
    """The stream of a message, one item for each event."""
    made = message_events(dict(document), EnvelopeDefaults("{}1".format, 7, "m"))
    return [event_of(payload) for payload in made]


def error(kind: str, text: str, status: int, *fields: tuple[str, str]) -> bytes:
    """The response with an error of the API, spaced as its servers space it."""
    body = f'{{"type": "error", "error": {{"type": "{kind}", "message": "{text}"}}, "request_id": "req_011"}}'
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
    return (head + body).encode()


def answer(document: Mapping[str, Any] = MESSAGE) -> Callable[[Received], Dialogue]:
    """Answer each request with `document`, as a stream if it requests one. Refuse what Anthropic's servers refuse."""

    def respond(request: Received) -> Dialogue:
        if request.header("anthropic-version") is None:
            return [Send(error("invalid_request_error", "anthropic-version: header is required", 400))]
        asked = request.json()
        if missing := [name for name in ("model", "max_tokens", "messages") if name not in asked]:
            return [Send(error("invalid_request_error", f"{missing[0]}: Field required", 400))]
        if asked.get("stream"):
            return [Send(stream(*events(document), end=LAST_CHUNK))]
        return [Send(reply(dict(document)))]

    return respond
