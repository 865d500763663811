"""What one caller's requests teach: for whom, and how long, on real sockets."""

import logging

import pytest

from gatepass.config.access import hash_key
from gatepass.learning.memory import HOUR_S, MINUTE_S
from tests.integration.gateway import HELLO, JSON, relaying
from tests.integration.messages_upstream import WHOLE, answer, message
from tests.integration.refusing import Refusal, Refusing, without
from tests.integration.scripted import Dialogue, Received, Send, reply
from tests.integration.test_responses import RESPONSE
from tests.unit.clock import DrivenClock

KEYS = {name: f"gp-0123456789abcdef-{name}" for name in "ab"}
ACCESS = {"keys": [{"name": name, "hash": hash_key(key)} for name, key in KEYS.items()]}


def by(name: str, **more: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {KEYS[name]}", **more}


async def test_a_bad_value_of_one_caller_changes_no_request_of_another():
    too_hot = Refusal(lambda body: body.get("temperature", 0) > 2, "temperature is not valid")
    async with relaying(answer=Refusing([too_hot]), access=ACCESS) as (upstream, gp):
        asked = [("a", 7), ("b", 0.5), ("a", 0.5), ("b", 7)]
        answers = [await gp.ask({**HELLO, "temperature": hot}, headers=by(name)).answer() for name, hot in asked]
    assert [(one.status, one.headers.get("x-gatepass-adapted")) for one in answers] == [
        *((200, "drop=temperature"), (200, None)),
        *((200, None), (200, "drop=temperature")),
    ]
    assert [one.json().get("temperature") for one in upstream.received] == [7, None, 0.5, 0.5, 7, None]


@pytest.mark.parametrize("has_chats", [True, False])
async def test_a_page_of_a_front_that_restarts_moves_no_messages_to_chats(has_chats):
    serving, gone = answer(message()), [Send(reply(b"<title>404 Not Found</title>", 404, content_type="text/html"))]

    def front(request: Received) -> Dialogue:
        is_chat = request.target.endswith("/completions")
        if is_chat and has_chats:
            return Refusing()(request)
        return gone if is_chat or len(upstream.received) == 2 else serving(request)

    async with relaying(answer=front, access=ACCESS) as (upstream, gp):
        headers = [by(name, **{"anthropic-version": "2023-06-01"}) for name in "aaab"]
        answers = [await gp.ask(WHOLE, "/v1/messages", headers=one).answer() for one in headers]
        assert gp.state.learned_rules() == []
    assert [one.status for one in answers] == [200, 200 if has_chats else 400, 200, 200]
    paths = [request.target.rpartition("/")[2] for request in upstream.received]
    assert paths == ["messages", "messages", "completions", "messages", "messages"]


EIGHT = dict.fromkeys(("temperature", "top_p", "seed", "top_k", "presence_penalty", "frequency_penalty"), 1) | {
    "store": False,
    "parallel_tool_calls": True,
}


async def test_an_upstream_that_refuses_eight_members_one_by_one_answers_the_first_request():
    async with relaying(answer=Refusing([*map(without, EIGHT)])) as (upstream, gp):
        answers = [await gp.ask({**HELLO, **EIGHT}).answer() for _ in range(2)]
    assert [(one.status, one.headers.get("x-gatepass-attempts")) for one in answers] == [(200, "9"), (200, None)]
    assert upstream.received[-1].json() == HELLO


async def test_a_tool_that_was_left_out_is_shown_to_the_client_and_logged(caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    function = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    refusal = Refusal(lambda body: len(body["tools"]) > 1, "tools[1]: unsupported tool type 'image_generation'")

    def respond(request: Received) -> Dialogue:
        return refusal.dialogue if refusal.concerns(request.json()) else [Send(reply(RESPONSE))]

    async with relaying(answer=respond) as (upstream, gp):
        asked = {"model": "m", "input": "hi", "tools": [function, {"type": "image_generation"}]}
        answered = await gp.ask(asked, "/v1/responses").answer()
    entry = "drop=tools[image_generation]"
    assert (answered.status, answered.headers["x-gatepass-adapted"]) == (200, entry)
    assert upstream.received[-1].json()["tools"] == [function]
    (line,) = [record for record in caplog.records if record.getMessage() == "rule_learned"]
    assert entry in str(line.__dict__)


async def test_a_rule_lives_a_minute_and_taught_again_an_hour():
    clock = DrivenClock()
    async with relaying(answer=Refusing([without("store")]), clock=clock) as (upstream, gp):
        calls = []
        for later_s in (0, MINUTE_S - 1, 1, MINUTE_S, HOUR_S - MINUTE_S):
            await clock.advance(later_s)
            before = len(upstream.received)
            assert (await gp.ask({**HELLO, "store": False}).answer()).status == 200
            calls.append(len(upstream.received) - before)
    assert calls == [2, 1, 2, 1, 2]
