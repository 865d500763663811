"""Which of chat completions, responses and messages an upstream has, from answers to empty requests."""

import json
from typing import Any

import pytest

from gatepass.cli.probe import ProbeCall, protocols_of
from gatepass.config.model import Config
from gatepass.proxy.app_state import create_app_state
from tests.integration.answers import COMPLETION
from tests.integration.findings import Check, found_upstreams
from tests.integration.scripted import Dialogue, Received, Scripted, Send, event, reply, stream
from tests.integration.test_doctor import WORKS

LIST = [Send(reply({"object": "list", "data": [{"id": "m"}]}))]
MEMBERS = {"chat": "messages", "responses": "input", "messages": "max_tokens"}
PATHS = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages"}

Answer = tuple[int, Any]
FASTAPI = (404, {"detail": "Not Found"})
OPENAI = (404, {"error": {"message": "Invalid URL (POST /v1/responses)", "type": "invalid_request_error"}})
NO_METHOD = (405, {"detail": "Method Not Allowed"})
NO_MODEL = (400, {"error": {"message": "the model is required"}})
UNKNOWN_MODEL = (404, {"error": {"message": "The model `` does not exist", "code": "model_not_found"}})
NO_ROUTE = (404, {"error": {"message": "No matching route found for the model of the request"}})
REFUSED, BUSY, BROKEN = (401, {"error": "bad token"}), (429, {"error": "slow"}), (500, {"error": "KeyError"})
ALL_GOOD = (200, COMPLETION)


def missing(name: str, status: int = 400) -> Answer:
    return status, {"error": {"message": f"{MEMBERS[name]}: Field required"}}


def answering(**answers: Answer) -> Any:
    """An upstream whose three paths answer an empty object with these."""

    def answer(request: Received) -> Dialogue:
        if request.target == "/v1/models":
            return LIST
        name = PATHS[request.target.partition("?")[0]]
        if request.json() != {} and answers[name][0] in (400, 422):
            choice = {"index": 0, "delta": {"role": "assistant", "content": "ping"}, "finish_reason": "stop"}
            chunks = stream(event({"id": "c", "choices": [choice]}), event("[DONE]"))
            return [Send(chunks if request.json().get("stream") else reply(COMPLETION))]
        status, body = answers[name]
        return [Send(reply(body, status))]

    return answer


CHAT = missing("chat")
CASES: dict[str, tuple[Answer, Answer, Answer, str]] = {
    "FastAPI": (missing("chat", 422), FASTAPI, FASTAPI, "chat"),
    "OpenAI's words": (CHAT, OPENAI, OPENAI, "chat"),
    "another method": (CHAT, NO_METHOD, NO_METHOD, "chat"),
    "an unknown model": (UNKNOWN_MODEL, FASTAPI, FASTAPI, "chat"),
    "responses too": (CHAT, missing("responses"), FASTAPI, "chat responses"),
    "all": (CHAT, missing("responses"), missing("messages"), "chat responses messages"),
    "messages without a token": (CHAT, FASTAPI, REFUSED, "chat messages?"),
    "a path that accepts nothing": (CHAT, FASTAPI, ALL_GOOD, "chat messages?"),
    "a 400 about the path": (CHAT, (400, {"error": "unknown path /v1/responses"}), FASTAPI, "chat responses?"),
    "one answer for all": (NO_MODEL, NO_MODEL, NO_MODEL, "chat responses? messages?"),
    "a route by the model": (NO_ROUTE, NO_ROUTE, NO_ROUTE, "chat responses? messages?"),
    "a wrong base_url": (FASTAPI, FASTAPI, FASTAPI, "chat? responses? messages?"),
    "a chat that breaks": (BROKEN, FASTAPI, FASTAPI, "chat? responses? messages?"),
}


def one(url: str, **more: Any) -> dict[str, Any]:
    return {"upstreams": {"chat": {"base_url": f"{url}/v1", **more}}}


@pytest.mark.parametrize("case", CASES)
async def test_answers_to_empty_requests_show_what_an_upstream_has(case: str):
    chat, responses, messages, expected = CASES[case]
    async with Scripted(answer=answering(chat=chat, responses=responses, messages=messages)) as upstream:
        state = create_app_state(Config.model_validate(one(upstream.url)))
        found = await protocols_of(state, state.upstreams["chat"])
        await state.aclose()
    marks = {True: "{}", None: "{}?", False: ""}
    assert " ".join(filter(None, (marks[has].format(name) for name, has in found.items()))) == expected
    assert all(request.body == b"{}" for request in upstream.received)


async def test_a_gateway_that_closes_the_connection_shows_nothing():
    async with Scripted([]) as upstream:
        url = upstream.url
    state = create_app_state(Config.model_validate(one(url)))
    assert set((await protocols_of(state, state.upstreams["chat"])).values()) == {None}
    await state.aclose()


SET = " Set `upstreams.chat.protocols` to [chat]"


@pytest.mark.parametrize(
    ("messages", "more", "finding"),
    [
        (FASTAPI, {}, f" and no messages{SET}."),
        (FASTAPI, {"protocols": ["chat", "messages"]}, f" and no messages{SET}."),
        (FASTAPI, {"protocols": ["chat"]}, " and no messages"),
        (BUSY, {}, f"; messages: unknown{SET}, with messages if it has them."),
    ],
)
async def test_a_call_is_followed_by_what_the_upstream_has(messages: Answer, more: dict[str, Any], finding: str):
    async with Scripted(answer=answering(chat=CHAT, responses=FASTAPI, messages=messages)) as upstream:
        *_, shown = await found_upstreams(one(upstream.url, **more), ProbeCall("chat", "m"))
    why = f"has chat completions, but no responses{finding}"
    assert shown == Check("upstream:chat", WORKS, why, proves=False)


@pytest.mark.parametrize("call", [None, ProbeCall("embeddings", "m")])
async def test_without_a_call_of_such_a_model_nothing_is_asked(call: ProbeCall | None):
    def answer(request: Received) -> Dialogue:
        vectors = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
        return LIST if request.target == "/v1/models" else [Send(reply(vectors))]

    async with Scripted(answer=answer) as upstream:
        await found_upstreams(one(upstream.url), call)
    assert all(json.loads(request.body or b"1") for request in upstream.received)


async def test_after_a_failed_call_nothing_is_asked():
    answers = answering(chat=BROKEN, responses=FASTAPI, messages=FASTAPI)
    async with Scripted(answer=answers) as upstream:
        await found_upstreams(one(upstream.url), ProbeCall("chat", "m"))
    assert not [request for request in upstream.received if request.body == b"{}"]
