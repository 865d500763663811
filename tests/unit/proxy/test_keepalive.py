"""Keep-alives: when the head is sent, when a keep-alive is written, and what a client that does not read receives."""

from collections.abc import Mapping
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.protocols.client_protocol import COMMENT, COMMENT_AFTER_ID, comment_keep_alive
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.client_response import EVERY_S, STREAM_HOLD_S, SYNTHESIZED_HOLD_S, ClientResponse, KeepAlive
from gatepass.proxy.context import RequestContext
from gatepass.types import ClientRequest
from tests.unit.clock import DrivenClock
from tests.unit.proxy.test_attempt_retries import Client

CHECK_S = 1.0
EVENT = b'data: {"x":1}\n\n'


class Reader(Client):
    """`takes`: whether it accepts bytes at once."""

    def __init__(self) -> None:
        super().__init__(b"")
        self.takes = True

    def try_write(self, data: bytes) -> bool:
        return self.takes and super().try_write(data)


class Events:
    envelope: Mapping[str, Any] = {}
    open_choice = 0

    def __init__(self, *, has_ids: bool = False) -> None:
        self.has_ids = has_ids
        self.noted: list[bytes] = []

    def note_own_event(self, event: bytes) -> None:
        self.noted.append(event)


class Scene:
    def __init__(self) -> None:
        self.client, self.clock = Reader(), DrivenClock()
        state = create_app_state(
            Config.model_validate({"upstreams": {"chat": {"base_url": "http://h/v1"}}}), self.clock
        )
        request = ClientRequest("id", "POST", "/", (), "", self.clock.now())
        self.context = RequestContext.begin(request, state)
        self.reply = ClientResponse(self.client, self.context)
        self.keep_alive = KeepAlive(self.reply)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("hold_s", [SYNTHESIZED_HOLD_S, STREAM_HOLD_S])
async def test_nothing_is_sent_within_the_hold_time(scene, hold_s):
    scene.keep_alive.start(comment_keep_alive, hold_s)
    await scene.clock.advance(hold_s - 0.01)
    assert (scene.client.status, scene.client.data, scene.reply.begun) == (0, b"", False)
    await scene.clock.advance(0.01)
    assert (scene.client.status, scene.client.data, scene.reply.begun) == (200, COMMENT, True)


async def test_a_keep_alive_is_sent_at_each_interval_as_a_separate_block(scene):
    scene.keep_alive.start(comment_keep_alive, SYNTHESIZED_HOLD_S)
    await scene.clock.advance(SYNTHESIZED_HOLD_S + 3 * EVERY_S)
    assert scene.client.data == b": keep-alive\n\n" * 4
    assert (scene.context.access.bytes_out, scene.context.first_byte_s) == (len(COMMENT) * 4, None)


async def test_the_hold_spans_all_attempts_and_can_only_become_shorter(scene):
    scene.keep_alive.start(comment_keep_alive, STREAM_HOLD_S)
    await scene.clock.advance(SYNTHESIZED_HOLD_S - 1)
    scene.keep_alive.start(lambda _: b": another\n\n", SYNTHESIZED_HOLD_S)
    scene.keep_alive.start(lambda _: b": another\n\n", STREAM_HOLD_S)
    await scene.clock.advance(1)
    assert scene.client.data == COMMENT


async def test_another_encoder_receives_the_state_of_the_stream(scene):
    events, seen = Events(has_ids=True), []

    def keep_alive(at: Any) -> bytes:
        seen.append(at)
        return b"data: {}\n\n"

    scene.keep_alive.start(keep_alive, SYNTHESIZED_HOLD_S)
    await scene.clock.advance(SYNTHESIZED_HOLD_S)
    scene.keep_alive.events = events
    await scene.clock.advance(EVERY_S)
    assert scene.client.data == b"data: {}\n\n" * 2
    assert seen == [None, events]
    assert events.noted == [b"data: {}\n\n"], "only what was sent in the stream"


async def test_empty_keep_alive_is_not_written(scene):
    scene.keep_alive.start(lambda events: b": here\n\n" if events is None else b"", SYNTHESIZED_HOLD_S)
    await scene.clock.advance(SYNTHESIZED_HOLD_S)
    scene.keep_alive.events = Events()
    await scene.clock.advance(10 * EVERY_S)
    assert (scene.client.data, scene.context.access.bytes_out) == (b": here\n\n", 8)


@pytest.mark.parametrize(("has_ids", "keep_alive"), [(False, COMMENT), (True, COMMENT_AFTER_ID)])
async def test_keep_alives_are_sent_between_the_events_of_a_stream_that_pauses(scene, has_ids, keep_alive):
    scene.keep_alive.start(comment_keep_alive, STREAM_HOLD_S)
    await scene.clock.advance(1)
    scene.reply.begin_stream(200, ())
    scene.keep_alive.events = Events(has_ids=has_ids)
    for _ in range(30):
        await scene.clock.advance(EVERY_S - 2 * CHECK_S)
        assert scene.reply.try_send_events(EVENT)
    assert scene.client.data == EVENT * 30
    await scene.clock.advance(EVERY_S + CHECK_S)
    assert scene.client.data == EVENT * 30 + keep_alive
    await scene.clock.advance(EVERY_S)
    assert scene.reply.try_send_events(EVENT)
    assert scene.client.data == EVENT * 30 + keep_alive * 2 + EVENT


async def test_nothing_is_sent_after_the_end_of_the_reply_without_a_stop(scene):
    scene.keep_alive.start(comment_keep_alive, SYNTHESIZED_HOLD_S)
    scene.reply.begin_stream(200, ())
    await scene.reply.send_events(EVENT, last=True)
    await scene.clock.advance(10 * EVERY_S)
    assert scene.client.data == EVENT


async def test_a_client_that_does_not_read_receives_no_keep_alive(scene):
    scene.keep_alive.start(comment_keep_alive, SYNTHESIZED_HOLD_S)
    scene.client.takes = False
    await scene.clock.advance(SYNTHESIZED_HOLD_S + 100 * EVERY_S)
    assert (scene.client.status, scene.client.data, scene.context.access.bytes_out) == (200, b"", 0)
    scene.client.takes = True
    await scene.clock.advance(EVERY_S)
    assert scene.client.data == COMMENT
