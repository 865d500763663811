"""Every request that RAGFlow sends, through gatepass, to an upstream that rejects every unknown member."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest

from gatepass.server.process import IDLE_TIMEOUT_S
from tests.integration import ragflow_readers as reads
from tests.integration.gateway import Answer, Gateway, relaying
from tests.integration.ragflow_requests import ALL, CHAT_MODEL, CHATS, KEY, RANK_MODEL, Replay
from tests.integration.strict_azure import CALLS, DEPLOYMENTS, SPOKEN, TEXT, TRANSCRIPT, StrictAzure, score, vector

BLOCKS: dict[str, Any] = {
    "models": {"*": {"upstream": "chat"}},
    "operations": {"rerank": {"upstream": "chat", "model": RANK_MODEL}},
    "access": {
        "keys": [{"name": "ragflow", "hash": f"sha256:{sha256(KEY.encode()).hexdigest()}", "profile": "ragflow"}]
    },
}
CHATTING = [replay for replay in ALL if f'"{CHAT_MODEL}"'.encode() in replay.body]
KEYLESS = [replay for replay in ALL if not replay.headers.keys() & {"authorization"}]
WITH_KEY = [replay for replay in ALL if replay not in KEYLESS]
OTHERS = [deployment.name for deployment in DEPLOYMENTS if deployment.name != CHAT_MODEL]
VERIFY = CHATS[0]


def expected(replay: Replay) -> object:
    """The answer that RAGFlow must read, with any profile and mode between it and this upstream."""
    if replay.reads in (reads.vectors, reads.packed_vectors):
        document = json.loads(replay.body)
        return [vector(text, document.get("dimensions", 3)) for text in document["input"]]
    if replay.reads in (reads.ranks, reads.ranks_tei):
        document = json.loads(replay.body)
        return {index: score(text) for index, text in enumerate(document.get("documents") or document["texts"])}
    others: dict[Any, Any] = {
        reads.tools_stream: list(CALLS),
        reads.transcript: TRANSCRIPT,
        reads.speech: SPOKEN,
        reads.models: [deployment.name for deployment in DEPLOYMENTS],
    }
    return others.get(replay.reads, TEXT)


@asynccontextmanager
async def serving(azure: StrictAzure, blocks: dict[str, Any] = BLOCKS) -> AsyncIterator[Gateway]:
    async with relaying(answer=azure.answer, **blocks) as (_, gatepass):
        yield gatepass


async def ask(gatepass: Gateway, replay: Replay) -> Answer:
    return await gatepass.ask(replay.body, replay.path, method=replay.method, headers=replay.headers).answer()


async def fault(gatepass: Gateway, replay: Replay) -> str | None:
    """The text that RAGFlow shows, or reads as an answer, instead of the right one."""
    answer = await ask(gatepass, replay)
    if answer.status != 200:
        return f"Error code: {answer.status} - {answer.body[:300]!r}"
    try:
        found = replay.reads(answer.headers, answer.body)
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        return str(error)
    return None if found == expected(replay) else f"{found!r}"


async def faults(replays: Iterable[Replay]) -> dict[str, str]:
    async with serving(StrictAzure()) as gatepass:
        found = {replay.name: await fault(gatepass, replay) for replay in replays}
    return {name: reported for name, reported in found.items() if reported is not None}


async def test_ragflow_reads_the_answer_to_every_request():
    assert await faults(WITH_KEY) == {}


@pytest.mark.parametrize("replay", KEYLESS, ids=lambda replay: replay.name)
async def test_client_class_without_a_key_works_only_without_configured_keys(replay):
    async with serving(StrictAzure()) as locked:
        assert (await ask(locked, replay)).status == 401
    blocks = {name: block for name, block in BLOCKS.items() if name != "access"}
    async with serving(StrictAzure(), blocks) as unlocked:
        assert await fault(unlocked, replay) is None


@pytest.mark.parametrize("model", OTHERS)
async def test_a_model_that_refuses_settings_and_streams_answers_all_the_same(model):
    assert await faults(replay.asking(model) for replay in CHATTING) == {}


async def test_learned_rules_prevent_a_second_rejection():
    azure = StrictAzure()
    async with serving(azure) as gatepass:
        await ask(gatepass, VERIFY.asking("o1"))
        learned = len(azure.refusals)
        await ask(gatepass, VERIFY.asking("o1"))
    assert learned > 0
    assert len(azure.refusals) == learned


def test_an_idle_connection_outlives_that_of_a_client_in_go():
    assert IDLE_TIMEOUT_S > 90  # net/http's Transport.IdleConnTimeout
