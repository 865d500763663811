"""RAGFlow's requests straight to the strict upstream: what it refuses, in which words, and what RAGFlow reads."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.integration.gateway import Answer, Ask
from tests.integration.ragflow_readers import Misread, read
from tests.integration.ragflow_requests import ALL, CHATS, DOCUMENTS, VISION, Reads, Replay
from tests.integration.scripted import Scripted
from tests.integration.strict_azure import CALLS, DEPLOYMENTS, SPOKEN, TEXT, TRANSCRIPT, StrictAzure, score, vector

CLEAN = [replay for replay in ALL if not replay.strays]
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


def test_every_row_has_a_name_of_its_own():
    assert len({replay.name for replay in ALL}) == len(ALL)


@pytest.mark.parametrize("replay", STRAY, ids=lambda replay: replay.name)
async def test_a_stray_member_is_refused_by_its_name(replay):
    azure = StrictAzure()
    answer = await reported(replay, azure)
    assert answer.status in (400, 422)
    assert any(name in answer.body.decode() for name in replay.strays)
    with pytest.raises(Misread):
        read(replay.reads, answer.status, answer.headers, answer.body)


BASE64 = [replay for replay in CLEAN if replay.reads is Reads.PACKED_VECTORS]
GET_WITH_BODY = [replay for replay in CLEAN if replay.method == "GET" and replay.body]
AZURES_FIRST_CHUNK = [replay for replay in CLEAN if replay.reads is Reads.VISION_STREAM]
REPAIRED = [*BASE64, *GET_WITH_BODY, *AZURES_FIRST_CHUNK]
"""Clean rows that this upstream does not serve as they are, for other reasons than a stray."""


@pytest.mark.parametrize("replay", [one for one in CLEAN if one not in REPAIRED], ids=lambda replay: replay.name)
async def test_a_clean_request_is_answered_as_ragflow_reads_it(replay):
    answer = await reported(replay, StrictAzure())
    assert read(replay.reads, answer.status, answer.headers, answer.body) == expected(replay)


@pytest.mark.parametrize("replay", REPAIRED, ids=lambda replay: replay.name)
async def test_accepted_request_may_still_be_misread_without_gatepass(replay):
    answer = await reported(replay, StrictAzure())
    with pytest.raises(Misread):
        read(replay.reads, answer.status, answer.headers, answer.body)


VERIFY = CHATS[0]
ONLY_DEFAULT = "Only the default (1) value is supported."


@pytest.mark.parametrize(
    ("model", "message", "param", "code"),
    [
        (
            "o3-mini",
            "Unsupported parameter: 'temperature' is not supported with this model.",
            "temperature",
            "unsupported_parameter",
        ),
        (
            "gpt-5",
            f"Unsupported value: 'temperature' does not support 0.9 with this model. {ONLY_DEFAULT}",
            "temperature",
            "unsupported_value",
        ),
        (
            "gone",
            "The API deployment for this resource does not exist.",
            None,
            "DeploymentNotFound",
        ),
    ],
)
async def test_verification_is_refused_with_azures_message(model, message, param, code):
    answer = await reported(VERIFY.asking(model), StrictAzure())
    assert answer.json() == {
        "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    }


def chat(**members: object) -> Replay:
    document = {"messages": [{"role": "user", "content": "Hi"}], **members}
    return replace(VERIFY, body=json.dumps(document).encode())


@pytest.mark.parametrize(
    ("replay", "message"),
    [
        (chat(model="o1", stream=True), "Unsupported value: 'stream' does not support true with this model."),
        (chat(model="stream-only"), "This model only support stream mode"),
        (chat(model="o1", max_tokens=5), "Use 'max_completion_tokens' instead."),
        (chat(model="gpt-4o", stream_options={}), "only allowed when 'stream' is enabled"),
        (chat(model="gpt-4o", messages=[{"role": "user", "content": None}]), "expected a string, got null"),
        (
            chat(
                model="gpt-4o",
                messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "iVBOR"}}]}],
            ),
            "Image url should be a valid url",
        ),
        (chat(model="gpt-4o", tools=[{"type": "function", "strict": None, "function": {}}]), "'tools[0].strict'"),
    ],
)
async def test_strict_azure_refuses_members_that_the_model_rejects(replay, message):
    azure = StrictAzure()
    assert (await reported(replay, azure)).status == 400
    assert message in azure.refusals[0]


async def test_a_wrong_token_and_a_wrong_path_are_refused():
    assert (await reported(VERIFY, StrictAzure(token="other"))).status == 401
    assert (await reported(VERIFY, StrictAzure(base="/openai/v1"))).status == 404


async def test_tei_receives_texts():
    tei = next(replay for replay in ALL if replay.reads is Reads.RANKS_TEI)
    answer = await reported(tei, StrictAzure(ranks="tei"))
    assert read(tei.reads, 200, answer.headers, answer.body) == {index: score(t) for index, t in enumerate(DOCUMENTS)}
    other = next(replay for replay in ALL if replay.reads is Reads.RANKS)
    assert (await reported(other, StrictAzure(ranks="tei"))).status == 422


async def test_the_picture_is_one_and_is_seen():
    answer = await reported(VISION[0], StrictAzure())
    assert read(Reads.VISION, answer.status, answer.headers, answer.body) == TEXT
