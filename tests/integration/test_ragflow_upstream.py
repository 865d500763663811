"""RAGFlow's assistants and agents behind gatepass, in three versions: what any OpenAI client is shown of them."""

import json
from typing import Any, get_args

import pytest

from gatepass.cli.probe import ProbeCall
from gatepass.documents import StepOutcome
from tests.integration.findings import Check, found_upstreams
from tests.integration.gateway import Answer, gateway
from tests.integration.ragflow_server import AGENT, ANSWER, CHAT, CHUNK, KEY, THOUGHT, USAGE, Ragflow, Version
from tests.integration.scripted import Scripted, Send, event, reply, stream

VERSIONS = get_args(Version)
GENERATIONS = [("v0.24.0", "old"), ("v0.25.6", "old"), ("v0.27.0", "current")]
MODELS = {
    "handbook": {"upstream": "rag", "name": CHAT},
    "desk": {"upstream": "rag", "name": f"agent:{AGENT}"},
    "gone": {"upstream": "rag", "name": "0000"},
    "fired": {"upstream": "rag", "name": "agent:0000"},
}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def blocks(upstream: Scripted, paths: str = "current", *, token: str = KEY, **more: Any) -> dict[str, Any]:
    hop = {"base_url": upstream.url, "dialect": "ragflow", "credential": "key", "ragflow": {"paths": paths}}
    return {
        "upstreams": {"rag": hop},
        "credentials": {"key": {"type": "static", "token": token}},
        "models": MODELS,
        **more,
    }


def chat(words: Any = "hi", model: str = "handbook", **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": words}], **members}


async def asked(server: Ragflow, body: Any, paths: str | None = None) -> Answer:
    async with Scripted(answer=server.answer) as upstream:
        config = blocks(upstream, paths or ("old" if server.version == "v0.24.0" else "current"))
        async with gateway(**config) as gp:
            return await gp.ask(body).answer()


def chunks(answer: Answer) -> list[dict[str, Any]]:
    assert (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]")
    return [json.loads(data) for data in answer.events[:-1]]


def text_of(found: list[dict[str, Any]], member: str = "content") -> str:
    return "".join(choice["delta"].get(member) or "" for one in found for choice in one["choices"])


def finishes(found: list[dict[str, Any]]) -> list[str]:
    return [reason for one in found for choice in one["choices"] if (reason := choice.get("finish_reason"))]


@pytest.mark.parametrize("model", ["handbook", "desk"])
@pytest.mark.parametrize(("version", "paths"), GENERATIONS)
async def test_a_plain_answer_is_a_completion_of_its_own(version, paths, model):
    server = Ragflow(version)
    answer = await asked(server, chat(model=model), paths)
    found = answer.json()
    assert (answer.status, found["object"], found["choices"][0]["message"]["content"]) == (
        200,
        "chat.completion",
        ANSWER,
    )
    assert CHAT not in found["id"]
    assert found["created"] > 0
    assert found["usage"]["total_tokens"] == USAGE["total_tokens"]
    assert server.bodies[0]["stream"] is False
    assert server.bodies[0]["model"] == "model"


@pytest.mark.parametrize("model", ["handbook", "desk"])
@pytest.mark.parametrize(("version", "paths"), GENERATIONS)
async def test_a_stream_holds_the_answer_once_under_one_id_and_ends_well(version, paths, model):
    answer = await asked(Ragflow(version), chat(model=model, stream=True), paths)
    found = chunks(answer)
    assert text_of(found) == ANSWER
    assert text_of(found, "reasoning_content") == (THOUGHT if model == "handbook" else "")
    assert len({one["id"] for one in found}) == 1
    assert CHAT not in found[0]["id"]
    assert all(isinstance(one["created"], int) and one["object"] == "chat.completion.chunk" for one in found)
    assert finishes(found) == ["stop"]
    assert answer.headers["content-type"].count("text/event-stream") == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_sdk_can_request_and_receive_references(version):
    answer = await asked(Ragflow(version), chat(reference=True))
    assert answer.json()["choices"][0]["message"]["reference"] == [CHUNK]
    assert "extra_body=reference" in answer.headers["x-gatepass-adapted"]
    found = chunks(await asked(Ragflow(version), chat(reference=True, stream=True)))
    assert [CHUNK] in [choice["delta"].get("reference") for one in found for choice in one["choices"]]
    assert text_of(found) == ANSWER


async def test_image_is_refused_before_the_request_or_dropped_by_configuration():
    parts = [{"type": "text", "text": "What?"}, PICTURE]
    server = Ragflow()
    async with Scripted(answer=server.answer) as upstream:
        async with gateway(**blocks(upstream)) as gp:
            answer = await gp.ask(chat(parts)).answer()
        assert (answer.status, answer.error["code"], answer.error["param"]) == (
            400,
            "invalid_image",
            "messages[0].content[1]",
        )
        assert upstream.connections == 0
        config = blocks(upstream)
        config["upstreams"]["rag"]["ragflow"]["images"] = "drop"
        async with gateway(**config) as gp:
            answer = await gp.ask(chat(parts)).answer()
    assert (answer.status, server.bodies[0]["messages"][0]["content"]) == (200, "What?")
    assert "drop=images" in answer.headers["x-gatepass-adapted"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("body", "status", "code", "begins"),
    [
        (chat(model="gone"), 404, "102", "You don't own the chat 0000. The owner of this token has no such assistant"),
        (chat(model="fired"), 404, "102", "Agent not found."),
        (chat() | {"messages": []}, 400, "102", "You have to provide messages."),
        (chat() | {"messages": [{"role": "assistant", "content": "x"}]}, 400, "102", "The last content of this"),
        (chat(extra_body=7), 400, "102", "extra_body must be an object."),
    ],
)
async def test_an_error_in_a_200_has_a_true_status(body, status, code, begins, stream):
    answer = await asked(Ragflow(), body | {"stream": stream})
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (status, "application/json")
    assert (answer.error["code"], answer.error["hop"]) == (code, "upstream:rag")
    assert answer.error["message"].startswith(begins)
    assert body["model"] != "fired" or answer.headers["x-gatepass-adapted"] == "ragflow=error"


async def test_model_without_an_alias_is_the_assistants_id():
    async with Scripted(answer=Ragflow().answer) as upstream, gateway(**blocks(upstream) | {"models": {}}) as gp:
        known = await gp.ask(chat(model=f"agent:{AGENT}")).answer()
        tricky = await gp.ask(chat(model="../../../x?y")).answer()
        step = await gp.ask(chat(model="..")).answer()
    assert (known.status, tricky.status, step.status) == (200, 404, 404)
    assert upstream.received[1].target == "/api/v1/openai/..%2F..%2F..%2Fx%3Fy/chat/completions"
    assert len(upstream.received) == 2


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_check_proves_the_token_without_generating_anything(version):
    async with Scripted(answer=Ragflow(version).answer) as upstream:
        assert await found_upstreams(blocks(upstream)) == [
            Check("upstream:rag", StepOutcome.WORKS, "answers and accepts the token")
        ]
        (wrong,) = await found_upstreams(blocks(upstream, token="ragflow-wrong-0123456789"))
    assert wrong.outcome is StepOutcome.FAILS
    assert {request.target for request in upstream.received} == {"/api/v1/chats?page=1&page_size=1"}


async def test_a_check_with_a_model_asks_its_assistant():
    server = Ragflow()
    async with Scripted(answer=server.answer) as upstream:
        (works,) = await found_upstreams(blocks(upstream), ProbeCall("chat", "handbook"))
        (fails,) = await found_upstreams(blocks(upstream), ProbeCall("chat", "gone"))
        (refused,) = await found_upstreams(blocks(upstream), ProbeCall("embeddings", "handbook"))
    assert [check.outcome for check in (works, fails, refused)] == [
        StepOutcome.WORKS,
        StepOutcome.FAILS,
        StepOutcome.FAILS,
    ]
    assert server.bodies[0]["model"] == "model"
    assert "supports only chat" in refused.finding


# --- RAGFlow 1.0 ----------------------------------------------------------------------------------------

HEAD = {"id": "session-7", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "model"}
ASKED = {"cpn_id": "UserFillUp:0", "tips": "Which year?", "inputs": {"year": {"type": "line"}}}


def chunk_of(delta: dict[str, Any], finish: str | None = None, tokens: int | None = None) -> bytes:
    usage = None if tokens is None else {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    choice = {"index": 0, "delta": {"role": "assistant", "content": None, **delta}, "finish_reason": finish}
    return event({**HEAD, "choices": [choice], "usage": usage})


def whole(members: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choices = [{"index": 0, "message": {"role": "assistant", "content": None, **members}, "finish_reason": finish}]
    usage = {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}
    return reply({**HEAD, "object": "chat.completion", "choices": choices, "usage": usage, **more})


async def played(answer_bytes: bytes, **members: Any) -> Answer:
    async with Scripted([Send(answer_bytes)]) as upstream, gateway(**blocks(upstream)) as gp:
        return await gp.ask(chat(**members)).answer()


@pytest.mark.parametrize(
    ("answer_bytes", "status", "code", "says"),
    [
        (
            stream(chunk_of({"final_content": "**ERROR**: API request failed"}, "stop", 12), event("[DONE]")),
            *(502, "100", "API request failed"),
        ),
        (
            stream(chunk_of({"waiting_for_user": ASKED}, "waiting_for_user", 0)),
            *(409, "409", "The agent waits for the user's input. Which year?"),
        ),
        (whole({"content": ""}), 502, "100", "The model behind the assistant failed"),
        (reply({"code": 102, "data": None, "message": "no authorization"}), 404, "102", "agent:ID for an agent"),
        (
            reply({"error": {"message": "Make sure you have permission to access the agent.", "type": "x"}}, 403),
            *(403, None, "agent:ID for an agent"),
        ),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_error_that_1_0_hides_has_its_status(answer_bytes, status, code, says, is_stream):
    answer = await played(answer_bytes, stream=is_stream)
    assert (answer.status, answer.error["hop"]) == (status, "upstream:rag"), answer.body
    assert says in answer.error["message"]
    assert code in (answer.error["code"], None)


async def test_an_agent_that_waits_after_a_text_ends_well_and_keeps_what_it_asks():
    waits = chunk_of({"waiting_for_user": ASKED}, "waiting_for_user", 4)
    found = chunks(await played(stream(chunk_of({"content": "Hello. "}), waits), stream=True))
    assert (text_of(found), finishes(found)) == ("Hello. ", ["stop"])
    last = found[-1]["choices"][0]
    assert (last["delta"]["waiting_for_user"], last["native_finish_reason"]) == (ASKED, "waiting_for_user")


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_refused_api_key_is_that_of_the_upstream_and_names_its_setting(is_stream):
    refused = reply({"code": 109, "message": "Authentication error: API key is invalid!", "data": False})
    answer = await played(refused, stream=is_stream)
    assert (answer.status, answer.error["code"], answer.error["hop"]) == (403, "109", "upstream:rag")
    said = answer.error["message"]
    assert "does not accept the credential that gatepass sends: Authentication error: API key is invalid!" in said
    assert "Replace the key in credentials.key, then run" in said
