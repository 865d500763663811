"""Signs of life: when the head goes out, what is written when, and what a client that does not read gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gatepass.clock import PeriodicChecks
from gatepass.config.model import Config
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.client_response import ClientResponse
from gatepass.proxy.context import RequestContext
from gatepass.proxy.keepalive import (
    COMMENT,
    COMMENT_AFTER_ID,
    EVERY_S,
    HOLD_S,
    STREAM_HOLD_S,
    KeepAlive,
    comment_keep_alive,
)
from gatepass.types import ClientRequest
from tests.unit.clock import DrivenClock

ROUND_S = 1.0
EVENT = b'data: {"x":1}\n\n'


class Client:
    """Keeps what it is sent; it `takes` bytes at once, or none."""

    connected_before_drain = False

    def __init__(self) -> None:
        self.takes = True
        self.status: int | None = None
        self.data = b""

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        raise NotImplementedError

    async def read_piece(self, limit_bytes: int) -> bytes:
        raise NotImplementedError

    def start(self, status: int, headers: list[tuple[bytes, bytes]], length_bytes: int | None = None) -> None:
        self.status = status

    async def write(self, data: bytes, *, last: bool = False) -> None:
        self.data += data

    def set_caller(self, caller: str) -> None:
        raise NotImplementedError

    def try_write(self, data: bytes) -> bool:
        if self.takes:
            self.data += data
        return self.takes

    def on_disconnect(self, left: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError


class Events:
    told: Mapping[str, Any] = {}
    open_choice = 0

    def __init__(self, *, has_ids: bool = False) -> None:
        self.has_ids = has_ids


class Scene:
    def __init__(self) -> None:
        self.client, self.clock = Client(), DrivenClock()
        gate = create_app_state(Config.model_validate({"upstreams": {"chat": {"base_url": "http://h/v1"}}}), self.clock)
        inbound = ClientRequest("id", "POST", "/", (), "", self.clock.now())
        self.context = RequestContext(inbound, gate, gate.profiles["plain"])
        self.reply = ClientResponse(self.client, self.context)
        self.heartbeat = KeepAlive(self.reply, self.clock, PeriodicChecks(self.clock, ROUND_S))


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("hold_s", [HOLD_S, STREAM_HOLD_S])
async def test_nothing_goes_out_before_the_hold_is_over(scene, hold_s):
    scene.heartbeat.start(comment_keep_alive, hold_s)
    await scene.clock.advance(hold_s - 0.01)
    assert (scene.client.status, scene.client.data, scene.reply.begun) == (None, b"", False)
    await scene.clock.advance(0.01)
    assert (scene.client.status, scene.client.data, scene.reply.begun) == (200, COMMENT, True)


def test_the_hold_of_a_stream_outlasts_what_has_an_error_of_its_own_and_undercuts_the_strictest_proxy():
    connect_s, credential_s, strictest_s = 5, 10.5, 30
    assert max(connect_s, credential_s) < STREAM_HOLD_S
    assert strictest_s > STREAM_HOLD_S + EVERY_S + 2 * ROUND_S


async def test_then_a_sign_comes_at_every_turn_and_each_is_a_block_of_its_own(scene):
    scene.heartbeat.start(comment_keep_alive, HOLD_S)
    await scene.clock.advance(HOLD_S + 3 * EVERY_S)
    assert scene.client.data == b": keep-alive\n\n" * 4
    assert (scene.context.bytes_out, scene.context.first_byte_s) == (len(COMMENT) * 4, None)


async def test_the_wait_is_one_over_all_attempts_and_can_only_become_shorter(scene):
    scene.heartbeat.start(comment_keep_alive, STREAM_HOLD_S)
    await scene.clock.advance(HOLD_S - 1)
    scene.heartbeat.start(lambda _: b": another\n\n", HOLD_S)
    scene.heartbeat.start(lambda _: b": another\n\n", STREAM_HOLD_S)
    await scene.clock.advance(1)
    assert scene.client.data == COMMENT


async def test_a_client_may_want_another_sign_and_it_is_told_of_the_stream(scene):
    events, told = Events(has_ids=True), []

    def sign(at: Any) -> bytes:
        told.append(at)
        return b"data: {}\n\n"

    scene.heartbeat.start(sign, HOLD_S)
    await scene.clock.advance(HOLD_S)
    scene.heartbeat.watch_stream(events)
    await scene.clock.advance(EVERY_S)
    assert scene.client.data == b"data: {}\n\n" * 2
    assert told == [None, events]


async def test_where_no_sign_may_stand_nothing_is_written(scene):
    scene.heartbeat.start(lambda events: b": here\n\n" if events is None else b"", HOLD_S)
    await scene.clock.advance(HOLD_S)
    scene.heartbeat.watch_stream(Events())
    await scene.clock.advance(10 * EVERY_S)
    assert (scene.client.data, scene.context.bytes_out) == (b": here\n\n", 8)


@pytest.mark.parametrize(("has_ids", "sign"), [(False, COMMENT), (True, COMMENT_AFTER_ID)])
async def test_in_a_stream_that_pauses_signs_come_between_its_events(scene, has_ids, sign):
    scene.heartbeat.start(comment_keep_alive, STREAM_HOLD_S)
    await scene.clock.advance(1)
    scene.reply.begin_stream(200, ())
    scene.heartbeat.watch_stream(Events(has_ids=has_ids))
    for _ in range(30):
        await scene.clock.advance(EVERY_S - 2 * ROUND_S)
        assert scene.reply.try_send_events(EVENT)
    assert scene.client.data == EVENT * 30
    await scene.clock.advance(EVERY_S + ROUND_S)
    assert scene.client.data == EVENT * 30 + sign
    await scene.clock.advance(EVERY_S)
    assert scene.reply.try_send_events(EVENT)
    assert scene.client.data == EVENT * 30 + sign * 2 + EVENT


async def test_behind_an_id_no_blank_line_follows_the_comment():
    assert COMMENT_AFTER_ID + b"\n" == COMMENT


async def test_after_the_stop_nothing_comes(scene):
    scene.heartbeat.start(comment_keep_alive, HOLD_S)
    await scene.clock.advance(HOLD_S)
    scene.heartbeat.stop()
    await scene.clock.advance(10 * EVERY_S)
    assert scene.client.data == COMMENT
    scene.heartbeat.stop()


async def test_behind_the_end_nothing_comes_though_nobody_stopped_it(scene):
    scene.heartbeat.start(comment_keep_alive, HOLD_S)
    scene.reply.begin_stream(200, ())
    await scene.reply.send_events(EVENT, last=True)
    await scene.clock.advance(10 * EVERY_S)
    assert scene.client.data == EVENT


async def test_one_that_was_stopped_in_the_hold_or_never_began_writes_nothing(scene):
    scene.heartbeat.stop()
    scene.heartbeat.start(comment_keep_alive, HOLD_S)
    scene.heartbeat.stop()
    await scene.clock.advance(10 * EVERY_S)
    assert (scene.client.status, scene.client.data) == (None, b"")


async def test_a_client_that_does_not_read_is_sent_no_more(scene):
    scene.heartbeat.start(comment_keep_alive, HOLD_S)
    scene.client.takes = False
    await scene.clock.advance(HOLD_S + 100 * EVERY_S)
    assert (scene.client.status, scene.client.data, scene.context.bytes_out) == (200, b"", 0)
    scene.client.takes = True
    await scene.clock.advance(EVERY_S)
    assert scene.client.data == COMMENT
