"""Messages that gatepass makes of chats are valid by the types of Anthropic's SDK, strictly.

tests/unit/protocols/test_translated_answers.py has the same for responses and OpenAI's SDK. `test_clients.py` and
`test_quirks.py` test it for what upstreams of OpenAI's APIs send.
"""

import asyncio
from typing import Any

from tests.e2e.clients import chats
from tests.e2e.clients.program import Program
from tests.integration.gateway import gateway
from tests.integration.messages_upstream import TEXT, TOOL, WHOLE
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply, stream

Document = dict[str, Any]
THOUGHT = {"type": "thinking", "thinking": "The user asks about weather.", "signature": "gatepass_thought"}
CALLED = {"call_1": TOOL["input"], "call_2": {}}
CHAT_USAGE = {
    "prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19, "prompt_tokens_details": {"cached_tokens": 5},
}  # fmt: skip
MESSAGES: dict[str, Document] = {
    "calling": chats.completion(
        TEXT["text"], CALLED, name="weather", reasoning_content=THOUGHT["thinking"], usage=CHAT_USAGE
    ),
    "cut": chats.completion(TEXT["text"], finish_reason="length"),
    "content filter": chats.completion("", finish_reason="content_filter"),
}
"""The chat that answers a request, by the name of the model."""
BUILT = {
    "content": [THOUGHT, TEXT, *({**TOOL, "id": key, "input": arguments} for key, arguments in CALLED.items())],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 7, "output_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 5},
}


def chat_of(request: Received) -> Dialogue:
    asked = request.json()
    document = MESSAGES[asked["model"]]
    return [Send(stream(*chats.chunks(document)) if asked.get("stream") else reply(document))]


async def test_each_message_and_event_over_chats_is_valid_and_the_helper_builds_the_whole_message():
    anthropic = Program("anthropic", "python-anthropic", "ask_anthropic.py")
    body = {name: value for name, value in WHOLE.items() if name not in ("model", "stream")}
    given = [{"model": "calling", "kind": kind, "body": body} for kind in ("plain", "raw")]
    given += [
        {"model": name, "kind": "valid", "body": {**body, "stream": streams}}
        for name in MESSAGES
        for streams in (False, True)
    ]
    async with Scripted(answer=chat_of) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "protocols": ["chat"]}}
        async with gateway(upstreams=upstreams) as gp:
            asked = [{"repeats": 0, **one} for one in given]
            results = await asyncio.to_thread(anthropic.run, f"http://127.0.0.1:{gp.port}", asked)
    assert [one["model"] for one, result in zip(given, results, strict=True) if result["invalid"]] == [], results
    whole, streamed, *others = results
    for answer in (whole["answer"], streamed["answer"]):
        assert {name: answer[name] for name in BUILT} == BUILT
    assert all(result["checked"] for result in others)
