"""What requests and replies hold in total: a pure count, and a server with slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass import live
from gatepass.errors import Fault, Overloaded, TransportFault
from gatepass.live import SMALL_BYTES, HeldBytes, Holding
from gatepass.transport.response_body import read_whole
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Scripted, Send, reply

LIMIT_BYTES = 1000
SMALLEST_BYTES = 50
"""SMALL_BYTES of these requests."""
REPLY_BYTES = 600
PIECE_BYTES = 100
MIB = 1 << 20


@dataclass
class Upstream:
    """A reply that comes piece by piece, as the test says."""

    left: int
    ended: bool = False
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _here: int = 0

    def send(self) -> None:
        if self.left:
            self.left -= 1
            self._here += 1
        self.ended = not self.left
        self._more.set()

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        while True:
            while self._here:
                self._here -= 1
                if not take(b"x" * PIECE_BYTES):
                    return False
            if not self.left:
                return True
            self._more.clear()
            await self._more.wait()


class Conversation:
    """One request: its body, its reply, and a client that reads when the test says."""

    def __init__(self, held: HeldBytes, body_bytes: int, pieces: int) -> None:
        self.holding = Holding(held)
        self.upstream = Upstream(pieces)
        self.is_whole = False
        self._is_read = asyncio.Event()
        self.refused = False
        self.task = asyncio.create_task(self._run(body_bytes))

    async def _run(self, body_bytes: int) -> None:
        try:
            self.holding.claim(body_bytes)
            await read_whole(self.upstream, REPLY_BYTES, held=self.holding)  # type: ignore[arg-type]
            self.is_whole = True
            await self._is_read.wait()
        except Overloaded:
            self.refused = True
        finally:
            self.holding.release()

    def read(self) -> None:
        self._is_read.set()


Step = tuple[str, int]
steps = st.lists(st.tuples(st.sampled_from(["send", "send", "send", "read", "cancel", "begin"]), st.integers(0, 30)))


async def played(script: list[Step]) -> tuple[int, HeldBytes, list[Conversation]]:
    """Play `script`, then let all that is left end: how much was held beyond the limit, at most."""
    held, talks, beyond_bytes = HeldBytes(LIMIT_BYTES), list[Conversation](), 0
    for step, which in script:
        if step == "begin" or not talks:
            talks.append(Conversation(held, 10 * which, 1 + which % (REPLY_BYTES // PIECE_BYTES)))
        else:
            talk = talks[which % len(talks)]
            if step == "send":
                talk.upstream.send()
            elif step == "read":
                talk.read()
            else:
                talk.task.cancel()
        for _ in range(4):
            await asyncio.sleep(0)
        beyond_bytes = max(beyond_bytes, held.total_bytes - LIMIT_BYTES - PIECE_BYTES * len(held.waits))
    for _ in range(40 * len(talks) + 1):
        for talk in talks:
            talk.upstream.send()
            talk.read()
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*(talk.task for talk in talks), return_exceptions=True), 5)
    return beyond_bytes, held, talks


FLOOD: list[Step] = [("begin", 5)] * 10 + [("send", which) for _ in range(6) for which in range(10)]


@pytest.mark.attack("held bytes: any order")
@generated
@given(steps)
@example(FLOOD)
@example([*FLOOD, ("cancel", 0), ("cancel", 3), ("send", 1), ("read", 0)])
@example([("begin", 29)] * 9)
def test_what_is_held_is_bounded_and_everybody_is_served(attack: Attack, script: list[Step]) -> None:
    attack.cases += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "SMALL_BYTES", SMALLEST_BYTES)
        beyond_bytes, held, talks = asyncio.run(played(script))
    attack.check(beyond_bytes <= REPLY_BYTES + PIECE_BYTES + SMALLEST_BYTES * len(talks), (beyond_bytes, script))
    attack.check((held.total_bytes, held.beyond, len(held.waits)) == (0, None, 0), script)
    served = all(talk.is_whole or talk.refused or talk.task.cancelled() for talk in talks)
    attack.check(served, script)


def test_a_reply_that_never_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holding, "is_full", False)
    assert asyncio.run(played(FLOOD))[0] > REPLY_BYTES + PIECE_BYTES + SMALLEST_BYTES * 10


async def test_a_reply_waits_for_room_and_a_body_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SMALL_BYTES", 0)
    held = HeldBytes(100)
    first, second, third = Holding(held), Holding(held), Holding(held)
    first.claim(150)
    second.held_bytes = third.held_bytes = 1
    held.total_bytes += 2
    with pytest.raises(Overloaded, match=r"limits\.held_bytes"):
        second.claim(1)
    await second.room()
    assert held.beyond is second
    waiting = asyncio.create_task(third.room())
    await asyncio.sleep(0)
    assert (third.is_full, waiting.done()) == (True, False)
    first.release()
    await waiting
    second.release()
    third.release()
    assert (held.total_bytes, third.is_full) == (0, False)


def test_a_small_request_is_served_however_much_is_held() -> None:
    held = HeldBytes(100)
    large, small = Holding(held), Holding(held)
    large.claim(1_000_000)
    small.claim(SMALL_BYTES)
    assert not small.is_full
    with pytest.raises(Overloaded):
        small.claim(1)


async def test_a_reply_above_its_limit_is_an_error_however_much_is_held() -> None:
    held = HeldBytes(10)
    upstream = Upstream(20)
    for _ in range(20):
        upstream.send()
    with pytest.raises(TransportFault) as caught:
        await read_whole(upstream, 5 * PIECE_BYTES, held=Holding(held))  # type: ignore[arg-type]
    assert caught.value.fault is Fault.TOO_LARGE


@pytest.mark.attack("held bytes: slow readers")
async def test_slow_readers_of_large_replies_are_bounded_and_served(attack: Attack) -> None:
    body = b'{"object":"list","data":[{"object":"x","text":"%b"}]}' % (b"x" * 12 * MIB)
    readers, limits = 5, {"held_bytes": 16 * MIB, "reply_bytes": 13 * MIB, "body_bytes": MIB}  # the kernel takes 6 MiB
    async with (
        Scripted(*[[Send(reply(body))]] * readers, [Send(reply({"ok": True}))]) as upstream,
        gateway(upstream=upstream.url, limits=limits) as served,
    ):
        held, most_bytes = served.gate.live.held, 0
        asks = [served.ask({**HELLO, "input": "x"}, "/v1/moderations") for _ in range(readers)]

        async def watch() -> None:
            nonlocal most_bytes
            while True:
                most_bytes = max(most_bytes, held.total_bytes)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        for ask in asks:
            await ask.__aenter__()
        async with asyncio.timeout(20):
            while not held.waits:
                await asyncio.sleep(0.01)
        for _ in range(100):  # nobody reads: what is held stays held
            await asyncio.sleep(0.002)
        attack.check(held.total_bytes > 16 * MIB, held.total_bytes)
        large = await served.ask({**HELLO, "input": "y" * (MIB // 2)}, "/v1/moderations").answer()
        small = await served.ask({**HELLO, "input": "y"}, "/v1/moderations").answer()
        answers = await asyncio.gather(*(ask.answer() for ask in asks))
        for ask in asks:
            await ask.__aexit__()
        async with asyncio.timeout(20):
            while held.total_bytes:
                await asyncio.sleep(0.01)
        watching.cancel()
        requests = len(upstream.received)
    attack.cases += readers
    attack.peak_bytes, attack.allowed_bytes = most_bytes, 16 * MIB + 13 * MIB + readers * 512 * 1024
    attack.check(most_bytes <= attack.allowed_bytes, most_bytes)
    attack.check([answer.status for answer in answers] == [200] * readers, [answer.status for answer in answers])
    attack.check(all(answer.body == body for answer in answers), "a reply was changed")
    attack.check(
        (large.status, small.status) == (503, 200) and requests == readers + 1,
        (large.status, large.body[:200], requests),
    )
    assert large.headers.get("retry-after") == "1"
