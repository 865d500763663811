"""The Responses API: whole answers and streams made of each other, and responses that an upstream keeps."""

from hashlib import sha256
from typing import Any

import pytest

from tests.integration.gateway import JSON, gateway, relaying
from tests.integration.scripted import LAST_CHUNK, Scripted, Send, reply, stream
from tests.integration.test_raw_operations import ASKED, EVENTS, static
from tests.unit.sse.peer import strict_events
from tests.unit.sse.responses import call, message, part, reasoning, response

RESPONSE = response(reasoning("Hm"), message(part("Hi")), call())


async def test_whole_response_becomes_the_requested_stream():
    async with relaying(answer=lambda _: [Send(reply(RESPONSE))]) as (upstream, gp):
        answer = await gp.ask(ASKED, "/v1/responses").answer()
    events = strict_events(answer.body)
    assert (answer.status, answer.whole, answer.headers["content-type"]) == (
        200, True, "text/event-stream; charset=utf-8",
    )  # fmt: skip
    assert answer.headers["x-gatepass-adapted"] == "stream=synth"
    assert events[-1].response.to_dict() == RESPONSE
    assert [one.type for one in events][:3] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    assert upstream.received[0].json() == ASKED


async def test_a_refusal_of_streams_causes_rules_for_responses_too():
    refusal = {
        "message": "Your organization must be verified to stream this model. Please go to: https://e.example",
        "type": "invalid_request_error", "param": "stream", "code": "unsupported_value",
    }  # fmt: skip

    def answer(request):
        return [Send(reply({"error": refusal}, 400) if request.json()["stream"] else reply(RESPONSE))]

    async with relaying(answer=answer) as (upstream, gp):
        answers = [await gp.ask(ASKED, "/v1/responses").answer() for _ in range(2)]
    assert [strict_events(answer.body)[-1].response.to_dict() for answer in answers] == [RESPONSE] * 2
    assert [request.json()["stream"] for request in upstream.received] == [True, False, False]


# --- what an upstream keeps ---------------------------------------------------------------------------------------


async def test_stored_responses_are_requested_at_the_responses_upstream():
    kept = {"id": "resp_1", "object": "response", "status": "completed", "output": []}
    async with Scripted(answer=lambda _: [Send(reply(kept))]) as upstream:
        upstreams = {name: {"base_url": f"{upstream.url}/{name}", "credential": "corp"} for name in ("chat", "think")}
        operations = {"responses": {"upstream": "think"}}
        models = {"m": {"upstream": "chat"}}
        async with gateway(upstreams=upstreams, credentials=static(), operations=operations, models=models) as gp:
            asked = [
                ("GET", "/v1/responses/resp_1?include%5B%5D=reasoning.encrypted_content&key=mine", None, {}),
                ("GET", "/responses/resp_1/input_items?limit=2&order=asc", None, {}),
                ("POST", "/v1/v1/responses/resp_1/cancel", b"", JSON),
                ("DELETE", "/v1/responses/resp_1/", None, {}),
            ]
            answers = [await gp.ask(body, path, method=method, headers=more).answer()
                       for method, path, body, more in asked]  # fmt: skip
            unknown = await gp.ask(None, "/v1/responses/resp_1/output", method="GET", headers={}).answer()
    assert [(answer.status, answer.json()) for answer in answers] == [(200, kept)] * 4
    assert (unknown.status, unknown.error["code"]) == (404, "unknown_path")
    assert [(request.method, request.target) for request in upstream.received] == [
        ("GET", "/think/responses/resp_1?include%5B%5D=reasoning.encrypted_content"),
        ("GET", "/think/responses/resp_1/input_items?limit=2&order=asc"),
        ("POST", "/think/responses/resp_1/cancel"),
        ("DELETE", "/think/responses/resp_1"),
    ]
    assert {request.header("authorization") for request in upstream.received} == {"Bearer s3cret-token-0123"}


async def test_stored_failed_response_is_a_successful_reply():
    error = {"code": "server_error", "message": "It broke."}
    kept = {"id": "resp_1", "object": "response", "status": "failed", "output": [], "error": error}
    async with relaying(answer=lambda _: [Send(reply(kept))]) as (_, gp):
        answer = await gp.ask(None, "/v1/responses/resp_1", method="GET", headers={}).answer()
    assert (answer.status, answer.json()) == (200, kept)


@pytest.mark.parametrize("ends", [True, False])
async def test_the_events_of_a_kept_response_pass_and_a_cut_never_looks_like_an_end(ends):
    kept = EVENTS[1:] if ends else EVENTS[1:2]
    path, events = "/v1/responses/resp_1?stream=true&starting_after=0", stream(*kept, end=LAST_CHUNK)
    async with relaying(answer=lambda _: [Send(events)]) as (upstream, gp):
        answer = await gp.ask(None, path, method="GET", headers={}).answer()
    assert upstream.received[0].target == path
    assert answer.body.startswith(b"".join(kept))
    assert (answer.body == b"".join(kept)) == ends
    assert (b"event: error\n" in answer.body) == (not ends)


UNKNOWN = (
    b'{"model":"m", "include":["future.value"],"tools":[{"type":"namespace","name":"t","tools":[{"x":1.0e2}]}],'
    b'"input":[{"type":"future_call","call_id":"c","deep":{"a":[null,"\\u00e9"]}},{"role":"user","content":"Hi"}],'
    b'"future":{"k":1},"stream":%b}'
)
"""Types of items, tools and includes that no version of the API has, in an unusual spelling."""


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
async def test_unknown_types_pass_unchanged_in_both_directions(path):
    body = b'{"object": "response","id":"r","output": [{"type":"future_item","x":1.0e2}], "future":"\\u00e9"}'
    async with relaying(answer=lambda _: [Send(reply(body))]) as (upstream, gp):
        answer = await gp.ask(UNKNOWN % b"false", path).answer()
    assert (answer.status, answer.body) == (200, body)
    assert (upstream.received[0].body, upstream.received[0].target) == (UNKNOWN % b"false", path)
    assert "x-gatepass-adapted" not in answer.headers


def hashed(key: str) -> str:
    return f"sha256:{sha256(key.encode()).hexdigest()}"


async def test_a_compaction_is_routed_by_its_model():
    compacted = {"id": "resp_c", "object": "response.compaction", "created_at": 1, "output": [], "usage": None}
    async with Scripted(answer=lambda _: [Send(reply(compacted))]) as upstream:
        models = {"large": {"upstream": "chat", "name": "deployed"}}
        keys = [
            {"name": "a", "hash": hashed("a" * 32), "models": ["large"]},
            {"name": "b", "hash": hashed("b" * 32), "operations": ["chat"]},
        ]
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1"}}
        async with gateway(upstreams=upstreams, models=models, access={"keys": keys}) as gp:

            async def asked(key: str, **members: Any) -> Any:
                headers = {"authorization": f"Bearer {key * 32}"}
                return await gp.ask({"input": [], **members}, "/v1/responses/compact", headers=headers).answer()

            answer, other = await asked("a", model="large"), await asked("a", model="deployed")
            closed, unnamed = await asked("b", model="large"), await asked("a")
    assert (answer.status, answer.json()) == (200, compacted)
    assert [request.json() for request in upstream.received] == [{"input": [], "model": "deployed"}]
    assert [one.error["code"] for one in (other, closed, unnamed)] == [
        *("model_not_allowed", "operation_not_allowed", "invalid_request")
    ]


INPUT = {"model": "gpt-5", "input": [{"role": "user", "content": "Hi"}], "stream": True}


async def test_a_request_for_a_response_at_the_path_of_chats_is_one_error_with_the_remedy():
    async with relaying(answer=lambda _: [Send(reply(RESPONSE))]) as (upstream, gp):
        answer = await gp.ask(INPUT, "/v1/chat/completions").answer()
        quoting = await gp.ask({**INPUT, "messages": []}, "/v1/chat/completions").answer()
        completion = await gp.ask(INPUT, "/v1/completions").answer()
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", "messages")
    assert "`input` instead of `messages`" in answer.error["message"]
    assert "/v1/responses" in answer.error["message"]
    assert "under another name" in answer.error["message"]
    assert (quoting.status, completion.status) != (400, 400)
    assert [request.target for request in upstream.received] == ["/v1/chat/completions", "/v1/completions"]


async def test_the_tokens_of_an_input_are_counted_by_the_upstream():
    counted = {"object": "response.input_tokens", "input_tokens": 11}
    async with (
        Scripted([Send(reply(counted))]) as upstream,
        gateway(upstream=upstream.url) as gp,
    ):
        path, body = "/v1/responses/input_tokens", {"model": "m", "input": "Hi", "drop_params": True}
        answer = await gp.ask(body, path).answer()
    assert (answer.status, answer.json()) == (200, counted)
    assert upstream.received[0].json() == {"model": "m", "input": "Hi"}
    assert upstream.received[0].target == path
