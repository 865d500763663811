"""RAGFlow's requests straight to the strict upstream: what it refuses, in which words, and what RAGFlow reads."""

from __future__ import annotations

import json

import pytest

from tests.integration.gateway import Answer, Ask
from tests.integration.ragflow_readers import Misread, read
from tests.integration.ragflow_requests import ALL, Reads, Replay
from tests.integration.scripted import Scripted
from tests.integration.strict_azure import CALLS, DEPLOYMENTS, SPOKEN, TEXT, TRANSCRIPT, StrictAzure, score, vector

STRAY = [replay for replay in ALL if replay.strays]
LISTED = [deployment.name for deployment in DEPLOYMENTS]


def expected(replay: Replay) -> object:
    """The answer that RAGFlow must read, with any profile and mode between it and this upstream."""
    document = (
        json.loads(replay.body) if replay.headers.get("content-type") == "application/json" and replay.body else {}
    )
    match replay.reads:
        case Reads.TOOLS | Reads.TOOLS_STREAM:
            return list(CALLS)
        case Reads.VECTORS | Reads.PACKED_VECTORS:
            return [vector(text, document.get("dimensions", 3)) for text in document["input"]]
        case Reads.RANKS | Reads.RANKS_TEI:
            return {index: score(text) for index, text in enumerate(document.get("documents") or document["texts"])}
        case Reads.TRANSCRIPT:
            return TRANSCRIPT
        case Reads.SPEECH:
            return SPOKEN
        case Reads.MODELS:
            return LISTED
        case _:
            return TEXT


def at_the_right_path(replay: Replay) -> str:
    """The path that the upstream itself has: RAGFlow's odd ones are for gatepass to understand."""
    if replay.path == "/v1/":
        return "/v1/rerank"
    return "/v1" + replay.path.replace("/v1", "")


async def ask(port: int, replay: Replay) -> Answer:
    headers = {**replay.headers, "connection": "close"}
    return await Ask(port, replay.method, at_the_right_path(replay), headers, replay.body).answer()


async def reported(replay: Replay, azure: StrictAzure) -> Answer:
    async with Scripted(answer=azure.answer) as upstream:
        return await ask(int(upstream.url.rpartition(":")[2]), replay)


@pytest.mark.parametrize("replay", STRAY, ids=lambda replay: replay.name)
async def test_a_stray_member_is_refused_by_its_name(replay):
    azure = StrictAzure()
    answer = await reported(replay, azure)
    assert answer.status in (400, 422)
    assert any(name in answer.body.decode() for name in replay.strays)
    with pytest.raises(Misread):
        read(replay.reads, answer.status, answer.headers, answer.body)
