"""The time that a client has for each kind of input."""

from __future__ import annotations

import asyncio

import pytest

from gatepass.config.model import Limits
from gatepass.server.cycle import HttpRequestCycle
from gatepass.server.parser import RequestParser
from gatepass.server.timeouts import BODY_GRACE_S, AwaitedInput, ReceiveTimeouts
from tests.unit.http_client.loop import advance
from tests.unit.server.cycle_recorder import CycleRecorder
from tests.unit.server.wire_client import asked

RECEIVE_S, IDLE_TIMEOUT_S = 20.0, 75.0
LIMIT_BYTES = 1_000_000
RAW = asked(b"hello, you")


@pytest.fixture(autouse=True)
def _one_byte_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepass.server.timeouts.UPLOAD_BYTES_PER_S", 1)


class Wait:
    """A client that sends, and what it was too late with."""

    def __init__(self) -> None:
        self.late: list[AwaitedInput] = []
        self.recorder = CycleRecorder()
        self.reader = RequestParser(self.recorder)
        limits = Limits(receive_s=RECEIVE_S)
        self.timeouts = ReceiveTimeouts(asyncio.get_running_loop(), self._late, limits, IDLE_TIMEOUT_S)
        self.serving: HttpRequestCycle | None = None
        self.bound()

    def _late(self) -> None:
        if (expired := self.timeouts.take_expired()) is not None:
            self.late.append(expired)

    def bound(self) -> None:
        self.timeouts.update(self.reader, self.serving)

    def send(self, data: bytes) -> None:
        self.reader.feed(data)
        self.serving = self.recorder.cycles[0] if self.recorder.cycles else None
        self.bound()

    def answer(self) -> None:
        self.serving = None
        self.bound()

    def pass_on(self) -> None:
        """The handler reads the body as it arrives."""
        self.recorder.cycles[0].is_streamed = True
        self.bound()


async def dribble(wait: Wait, data: bytes, over_s: float) -> None:
    for byte in data:
        await advance(over_s / len(data))
        wait.send(bytes([byte]))


async def test_slow_body_has_one_deadline():
    wait = Wait()
    await advance(RECEIVE_S - 1)
    wait.send(RAW[:-10])
    await dribble(wait, RAW[-10:-1], RECEIVE_S - 2)
    assert wait.late == []
    await advance(2)
    assert wait.late == [AwaitedInput.BODY]


@pytest.mark.parametrize("is_passed_on", [False, True])
async def test_the_rest_of_a_late_body_buys_no_time_with_its_pieces(is_passed_on: bool):
    wait = Wait()
    wait.send(RAW[:-10])
    if is_passed_on:
        wait.pass_on()
    await advance(RECEIVE_S)
    wait.timeouts.start(AwaitedInput.REST, BODY_GRACE_S)
    await dribble(wait, RAW[-10:-1], BODY_GRACE_S - 0.5)
    assert wait.late == [AwaitedInput.BODY]
    await advance(0.5)
    assert wait.late == [AwaitedInput.BODY, AwaitedInput.REST]


async def test_nothing_is_awaited_while_a_whole_request_is_served_and_then_the_next():
    wait = Wait()
    wait.send(RAW)
    await advance(10 * IDLE_TIMEOUT_S)
    wait.answer()
    await advance(IDLE_TIMEOUT_S - 1)
    wait.bound()
    assert wait.late == []
    await advance(1)
    assert wait.late == [AwaitedInput.NEXT]


async def test_restarting_the_same_deadline_does_not_extend_it():
    wait = Wait()
    wait.timeouts.start(AwaitedInput.CLOSE, 2)
    await advance(1)
    wait.timeouts.start(AwaitedInput.CLOSE, 2)
    await advance(1)
    assert wait.late == [AwaitedInput.CLOSE]


async def test_input_awaited_again_after_a_timeout_has_its_full_time():
    wait = Wait()
    await advance(RECEIVE_S)
    wait.bound()
    await advance(RECEIVE_S)
    assert wait.late == [AwaitedInput.HEAD, AwaitedInput.HEAD]
