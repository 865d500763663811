"""The Responses API: whole answers and streams made of each other, and responses that an upstream keeps."""

import pytest

from tests.integration.gateway import relaying
from tests.integration.scripted import LAST_CHUNK, Send, reply, stream
from tests.integration.test_raw_operations import ASKED, EVENTS
from tests.unit.sse.peer import strict_events
from tests.unit.sse.responses import call, message, part, reasoning, response

RESPONSE = response(reasoning("Hm"), message(part("Hi")), call())


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
