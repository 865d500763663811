"""A protocol that converts its calls to chats changes their streams last, after the upstream's and the repair."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from gatepass.config.access import PLAIN, Profile
from gatepass.config.upstream import UpstreamConfig
from gatepass.dialects.error_body import read_error_body
from gatepass.protocols.chat import CHAT
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.responses import RESPONSES
from gatepass.proxy.response import ReplyContext
from gatepass.sse.chunk import EnvelopeDefaults, StreamSource
from gatepass.sse.dialect_transforms import RagflowTransforms
from gatepass.sse.event import EventTransform
from gatepass.types import Call
from tests.rows import CHAT as CHAT_ROW

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class Words:
    """Sends the content of each chunk as a line."""

    adapted: tuple[str, ...] = ("reply=words",)

    def feed(self, block: bytes) -> bytes:
        events = [part.removeprefix(b"data: ") for part in block.split(b"\n\n") if part]
        chunks = [json.loads(one) for one in events if one != b"[DONE]"]
        return b"".join(f"{chunk['choices'][0]['delta'].get('content', '')}\n".encode() for chunk in chunks)

    def finish(self) -> bytes:
        return b""


class Spoken(ClientProtocol):
    __slots__ = ()

    name = "spoken"

    def last_transform(self, profile: Profile) -> EventTransform | None:
        del profile
        return Words()


@dataclass(frozen=True)
class Sender:
    name: str
    settings: UpstreamConfig
    transforms: RagflowTransforms | None = None


@dataclass(frozen=True)
class AChatReply:
    last: ClientProtocol | None
    call: Call
    upstream: Sender
    profile: Profile = PLAIN


def relayed(protocol: ClientProtocol, last: ClientProtocol | None, *deltas: str) -> tuple[bytes, bool]:
    source, defaults = StreamSource("chat", 65536, read_error_body), EnvelopeDefaults(str, 1, "m")
    call = Call("id", CHAT_ROW, "caller", "m", b"{}", (), stream=True)
    sender = Sender("chat", UpstreamConfig(base_url="http://127.0.0.1:1/v1"))
    reply = cast(ReplyContext, AChatReply(last, call, sender))
    events = protocol.event_stream(source, defaults, reply)
    choices: list[Any] = [{"index": 0, "delta": {"content": text}, "finish_reason": None} for text in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    sent = b"".join(b"data: %b\n\n" % json.dumps({**CHUNK, "choices": [one]}).encode() for one in choices)
    return events.feed(sent + b"data: [DONE]\n\n") + events.finish(), events.done


def test_events_of_a_chat_reach_the_client_in_its_own_format():
    assert relayed(CHAT, Spoken(), "Hello", "you") == (b"Hello\nyou\n\n", True)


def test_without_a_last_protocol_they_pass_unchanged():
    passed, done = relayed(CHAT, None, "Hello")
    assert (passed.count(b"data: "), done) == (3, True)


def test_any_protocol_applies_the_last_one():
    assert relayed(RESPONSES, Spoken(), "Hello")[0].startswith(b"Hello\n")
