"""An event of 5 MiB, such as an image: where it passes, and what names the limit where gatepass must convert it."""

import re
from typing import Any

import pytest

from gatepass.errors import explanations
from tests.integration.gateway import CHAT, HELLO, Answer, answer_from
from tests.integration.ragflow import REPLAYED, classify
from tests.integration.scripted import Send, event, stream

IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * (5 * 1024 * 1024 // 11)
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
DONE = b"data: [DONE]\n\n"


def chunk_of(delta: dict[str, Any], reason: str | None = None) -> bytes:
    return event({**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


LARGE = chunk_of({"images": [{"type": "image_url", "image_url": {"url": IMAGE}}]})
EVENTS = (chunk_of({"role": "assistant", "content": "a"}), LARGE, chunk_of({}, "stop"), DONE)


async def answered(
    *events: bytes, path: str = CHAT, chat: dict[str, Any] | None = None, held_bytes: int = 512 << 20
) -> Answer:
    limits = {"held_bytes": held_bytes, "body_bytes": 1 << 20, "reply_bytes": min(16 << 20, held_bytes // 16)}
    return await answer_from([Send(stream(*events))], {**HELLO, "stream": True}, path, chat=chat, limits=limits)


@pytest.mark.parametrize(
    "block", [{}, {"dialect": "azure", "azure": {"api_version": "2024-10-21"}}], ids=["plain", "azure"]
)
@pytest.mark.parametrize("held_bytes", [512 << 20, 16 << 20])
async def test_an_image_in_an_event_passes(block: dict[str, Any], held_bytes: int) -> None:
    answer = await answered(*EVENTS, chat=block, held_bytes=held_bytes)
    assert (answer.status, LARGE in answer.body, answer.body.endswith(DONE)) == (200, True, True), answer.body[-400:]


async def test_an_image_in_an_event_passes_with_the_base_url_of_the_action_of_the_error() -> None:
    (path,) = re.findall(r"`http://HOST(/.+?)`", explanations()["long_lines"].action)
    answer = await answered(*EVENTS, path=f"{path}/chat/completions")
    assert (answer.status, IMAGE.encode() in answer.body, answer.body.endswith(DONE)) == (200, True, True)


@pytest.mark.parametrize(
    ("dialect", "path", "reason"),
    [
        ("ragflow", "/v1/chat/completions", "or than 1 MiB where gatepass converts the stream"),
        (
            "openai",
            "/for/ragflow/v1/chat/completions",
            "because the profile of the client splits long lines",
        ),
    ],
    ids=["RAGFlow as upstream", "profile ragflow"],
)
async def test_an_event_that_must_be_converted_names_its_limit(dialect: str, path: str, reason: str) -> None:
    answer = await answered(*EVENTS, path=path, chat={"dialect": dialect})
    assert answer.error["code"] == "upstream_invalid"
    assert reason in answer.error["message"]
    assert classify(answer.error["message"]) not in REPLAYED
