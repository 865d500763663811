"""Signs of life: when the head goes out, what is written when, and what a client that does not read gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gatepass.call import Inbound
from gatepass.heartbeat import COMMENT, Heartbeat
from gatepass.observe.exchange import Exchange
from gatepass.reply import Reply
from tests.unit.clock import DrivenClock

HOLD_S, EVERY_S = 5.0, 12.0


class Client:
    """Keeps what it is sent; it `takes` bytes at once, or none."""

    def __init__(self) -> None:
        self.takes = True
        self.status: int | None = None
        self.data = b""

    async def body(self, limit_bytes: int) -> bytes:
        raise NotImplementedError

    async def piece(self, limit_bytes: int) -> bytes:
        raise NotImplementedError

    def start(self, status: int, headers: list[tuple[bytes, bytes]], length_bytes: int | None = None) -> None:
        self.status = status

    async def write(self, data: bytes, *, last: bool = False) -> None:
        self.data += data

    def offer(self, data: bytes) -> bool:
        if self.takes:
            self.data += data
        return self.takes

    def watch(self, left: Callable[[], None]) -> Callable[[], None]:
        raise NotImplementedError


class Scene:
    def __init__(self) -> None:
        self.client, self.clock = Client(), DrivenClock()
        self.exchange = Exchange(Inbound("id", "POST", "/", (), "", self.clock.now()))
        self.reply = Reply(self.client, self.exchange, self.clock)
        self.heartbeat = Heartbeat(self.reply, self.clock, HOLD_S, EVERY_S)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_nothing_goes_out_before_the_hold_is_over(scene):
    scene.heartbeat.start()
    await scene.clock.advance(HOLD_S - 0.01)
    assert (scene.client.status, scene.client.data, scene.reply.begun) == (None, b"", False)
    await scene.clock.advance(0.01)
    assert (scene.client.status, scene.client.data, scene.reply.begun) == (200, COMMENT, True)


async def test_then_a_sign_comes_at_every_turn_and_never_a_blank_line(scene):
    scene.heartbeat.start()
    await scene.clock.advance(HOLD_S + 3 * EVERY_S)
    assert scene.client.data == COMMENT * 4
    assert b"\n\n" not in scene.client.data
    assert (scene.exchange.bytes_out, scene.exchange.first_byte_s) == (len(COMMENT) * 4, None)


async def test_the_wait_is_one_over_all_attempts(scene):
    scene.heartbeat.start()
    await scene.clock.advance(HOLD_S - 1)
    scene.heartbeat.start(b": another\n")
    await scene.clock.advance(1)
    assert scene.client.data == COMMENT


async def test_a_client_may_want_another_sign(scene):
    scene.heartbeat.start(b"data: {}\n\n")
    await scene.clock.advance(HOLD_S)
    assert scene.client.data == b"data: {}\n\n"


async def test_after_the_stop_nothing_comes(scene):
    scene.heartbeat.start()
    await scene.clock.advance(HOLD_S)
    scene.heartbeat.stop()
    await scene.clock.advance(10 * EVERY_S)
    assert scene.client.data == COMMENT
    scene.heartbeat.stop()


async def test_one_that_was_stopped_in_the_hold_or_never_began_writes_nothing(scene):
    scene.heartbeat.stop()
    scene.heartbeat.start()
    scene.heartbeat.stop()
    await scene.clock.advance(10 * EVERY_S)
    assert (scene.client.status, scene.client.data) == (None, b"")


async def test_a_client_that_does_not_read_is_sent_no_more(scene):
    scene.heartbeat.start()
    scene.client.takes = False
    await scene.clock.advance(HOLD_S + 100 * EVERY_S)
    assert (scene.client.status, scene.client.data, scene.exchange.bytes_out) == (200, b"", 0)
    scene.client.takes = True
    await scene.clock.advance(EVERY_S)
    assert scene.client.data == COMMENT
