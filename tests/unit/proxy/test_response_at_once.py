"""A whole reply that arrived with its head: it is read at once, counted, and held back while memory is full."""

import asyncio
from typing import cast

import pytest

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, Profile
from gatepass.config.model import Config
from gatepass.http_client.connection import Connection, Deadline
from gatepass.http_client.response_body import UpstreamResponse
from gatepass.proxy import in_flight
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.context import Attempt
from gatepass.proxy.in_flight import MemoryBudget, RequestMemory
from gatepass.proxy.response import BufferedReply, classify
from gatepass.types import Target
from tests.unit.normalize.calls import a_call

BODY = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'
)


class ReleasedConnection:
    """The connection of a reply whose last byte has arrived. The reply no longer uses it."""

    def __init__(self) -> None:
        self.deadline = Deadline(asyncio.get_running_loop(), self.abort)

    def abort(self) -> None:
        raise AssertionError("the reply was complete")

    resume = abort


def arrived(body: bytes) -> UpstreamResponse:
    connection = cast(Connection, ReleasedConnection())
    response = UpstreamResponse(connection, asyncio.get_running_loop(), 1.0)
    response.status, response.headers = 200, ((b"content-type", b"application/json"), (b"x-request-id", b"req-7"))
    response.pieces, response.size = [body], len(body)
    response.end()
    return response


def chat_attempt(memory: RequestMemory | None, profile: Profile = PLAIN) -> Attempt:
    state = create_app_state(
        Config.model_validate(
            {"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}, "limits": {"reply_bytes": 4096}}
        )
    )
    call = a_call(b'{"model":"m","messages":[]}')
    return Attempt.begin(state, Target("chat"), call, profile, memory=memory)


@pytest.mark.parametrize("is_counted", [True, False])
async def test_a_reply_that_arrived_is_not_copied_and_its_request_id_is_kept(is_counted: bool):
    memory = RequestMemory(MemoryBudget(1_000)) if is_counted else None
    attempt = chat_attempt(memory)
    reply = await classify(attempt, arrived(BODY))
    assert isinstance(reply, BufferedReply)
    assert reply.body is BODY
    assert attempt.record.upstream_request_id == "req-7"
    assert memory is None or memory.held_bytes == len(BODY)


async def test_a_reply_that_arrived_waits_for_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(in_flight, "FREE_BYTES", 0)
    budget = MemoryBudget(100)
    first, second = RequestMemory(budget), RequestMemory(budget)
    first.claim(150)
    classifying = asyncio.create_task(classify(chat_attempt(second), arrived(BODY)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not classifying.done()
    first.release()
    assert isinstance(await classifying, BufferedReply)


async def test_a_changed_reply_holds_nothing_of_the_one_before():
    body = BODY.replace(b'"content"', b'"reasoning":"so","content"')
    plain, ragflow = [
        await classify(chat_attempt(None, BUILT_IN_PROFILES[name]), arrived(body)) for name in ("plain", "ragflow")
    ]
    assert isinstance(plain, BufferedReply)
    assert isinstance(ragflow, BufferedReply)
    assert (plain.adapted, bytes(plain.text)) == ((), b'"hi"')
    assert (ragflow.adapted, bytes(ragflow.text)) == (("repair=usage", "repair=texts"), b"")
