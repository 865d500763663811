"""An event of 5 MiB, such as an image: where it passes, and what names the limit where gatepass must convert it."""

import json
import re
from typing import Any

import pytest

from gatepass.errors import explanations
from tests.integration.answers import DONE, delta
from tests.integration.gateway import CHAT, HELLO, Answer, answer_from
from tests.integration.ragflow import REPLAYED, classify
from tests.integration.scripted import Send, stream

IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * (5 * 1024 * 1024 // 11)
LARGE = delta(images=[{"type": "image_url", "image_url": {"url": IMAGE}}])
EVENTS = (delta(role="assistant", content="a"), LARGE, delta("stop"), DONE)


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


async def test_a_long_text_comes_in_lines_that_ragflow_reads() -> None:
    text = "é\\n and more words" * (1 << 17)
    answer = await answered(delta("stop", role="assistant", content=text), DONE, path=f"/for/ragflow{CHAT}")
    assert (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]"), answer.body[-400:]
    assert max(map(len, answer.body.split(b"\n"))) < 1 << 20
    choices = [choice for data in answer.events[:-1] for choice in json.loads(data)["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == text
    assert "repair=line" in answer.headers["x-gatepass-adapted"]
