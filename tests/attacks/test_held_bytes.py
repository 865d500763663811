"""The total memory that requests and replies hold: a pure count, and a server with slow readers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gatepass.errors import ClientGone, Overloaded
from gatepass.http_client.response_body import read_whole
from gatepass.proxy import in_flight
from gatepass.proxy.in_flight import FREE_BYTES, MemoryBudget, RequestMemory
from gatepass.server.connection import ClientConnection
from gatepass.server.cycle import HttpRequestCycle
from gatepass.types import Response
from tests.attacks.conftest import Attack
from tests.integration.gateway import HELLO, relaying
from tests.integration.scripted import Send, begin_stream, chunk, reply
from tests.waiting import at_rest, until

LIMIT_BYTES = 1000
SMALLEST_BYTES = 50
"""FREE_BYTES of these requests."""
REPLY_BYTES = 600
BODY_BYTES = 400
CALLERS = 3
PIECE_BYTES = 100
MIB = 1 << 20


@dataclass
class Upstream:
    """A reply that arrives piece by piece, at the test's command."""

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

    def take_whole(self, limit_bytes: int) -> bytes | None:
        return None

    async def stream_to(self, take: Callable[[bytes], bool]) -> bool:
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
    """One request. The test sends pieces of its body and of its reply, and reads for its client."""

    def __init__(self, held: MemoryBudget, caller: str, body_pieces: int, reply_pieces: int) -> None:
        self.holding = RequestMemory(held, caller)
        self.cycle = HttpRequestCycle(cast(ClientConnection, None), "POST", "/", b"/", "1.1", (), "")
        self.body_pieces = body_pieces
        self.upstream = Upstream(reply_pieces)
        self._is_read = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.cycle.read_body(BODY_BYTES, self.holding.claim)
            await read_whole(cast(Response, self.upstream), REPLY_BYTES, memory=self.holding)
            await self._is_read.wait()
        except Overloaded:
            pass
        finally:
            self.holding.release()

    def arrive(self) -> None:
        """Receive a piece of the body, also if the request has ended."""
        if self.body_pieces:
            self.body_pieces -= 1
            self.cycle.feed(b"x" * PIECE_BYTES)
        if not self.body_pieces:
            self.cycle.complete()

    def leave(self) -> None:
        self.cycle.disconnect()
        self.task.cancel()

    def read(self) -> None:
        self._is_read.set()


class HeldBytesMachine(RuleBasedStateMachine):
    """Requests of several callers, in any order, cancelled at any step."""

    attack: Attack

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.held = MemoryBudget(LIMIT_BYTES, CALLERS, BODY_BYTES + REPLY_BYTES)
        self.talks = list[Conversation]()

    def settle(self, rounds: int) -> None:
        async def idle() -> None:
            for _ in range(rounds):
                await asyncio.sleep(0)

        self.loop.run_until_complete(idle())

    def check(self, holds: bool, case: object) -> None:
        self.attack.check(holds, case)

    @rule(
        caller=st.integers(0, CALLERS - 1),
        body=st.integers(0, BODY_BYTES // PIECE_BYTES),
        reply=st.integers(1, REPLY_BYTES // PIECE_BYTES),
        rounds=st.integers(0, 3),
    )
    def begin(self, caller: int, body: int, reply: int, rounds: int) -> None:
        async def made() -> Conversation:
            return Conversation(self.held, f"caller {caller}", body, reply)

        self.talks.append(self.loop.run_until_complete(made()))
        self.settle(rounds)

    @rule(
        step=st.sampled_from(["arrive", "send", "read", "leave"]),
        which=st.integers(0, 30),
        rounds=st.integers(0, 3),
    )
    def go_on(self, step: str, which: int, rounds: int) -> None:
        for talk in self.talks[which % len(self.talks) :][:1] if self.talks else ():
            (talk.upstream.send if step == "send" else getattr(talk, step))()
        self.settle(rounds)

    @rule(step=st.sampled_from(["arrive", "send"]), times=st.integers(1, 8))
    def flood(self, step: str, times: int) -> None:
        for _ in range(times):
            for talk in self.talks:
                talk.upstream.send() if step == "send" else talk.arrive()
            self.settle(3)

    @invariant()
    def is_bounded(self) -> None:
        held = self.held
        holdings = [talk.holding for talk in self.talks]
        counted_bytes = sum(one.held_bytes for one in holdings if one.held_bytes > SMALLEST_BYTES)
        self.check(held.total_bytes == counted_bytes, "the sum")
        for caller in range(CALLERS):
            name = f"caller {caller}"
            others = [one for one in held.large if one.caller == name][1:]
            own_bytes = sum(one.held_bytes for one in others)
            allowed_bytes = held.caller_limit_bytes + len(others) * (SMALLEST_BYTES + PIECE_BYTES)
            self.check(own_bytes <= allowed_bytes, (name, own_bytes, allowed_bytes))
        beyond_bytes = BODY_BYTES + REPLY_BYTES + len(self.talks) * (SMALLEST_BYTES + PIECE_BYTES)
        self.check(held.total_bytes <= LIMIT_BYTES + beyond_bytes, held.total_bytes)
        for talk in self.talks:
            self.check(talk.task.done() is False or talk.holding.held_bytes == 0, "an ended request holds bytes")

    def teardown(self) -> None:
        try:
            for _ in range(60 * len(self.talks)):
                for talk in self.talks:
                    talk.arrive()
                    talk.upstream.send()
                    talk.read()
                self.settle(1)
                if all(talk.task.done() for talk in self.talks):
                    break
            self.check(all(talk.task.done() for talk in self.talks), "a request waits for ever")
            self.is_bounded()
            left = (self.held.total_bytes, self.held.by_caller, self.held.large, self.held.waits)
            self.check(left == (0, {}, {}, {}), left)
            for talk in self.talks:
                error = None if talk.task.cancelled() else talk.task.exception()
                self.check(error is None or isinstance(error, ClientGone), error)
        finally:
            for talk in self.talks:
                talk.task.cancel()
            self.settle(2)
            self.loop.close()


@pytest.mark.attack("held bytes: any order")
def test_held_bytes_are_bounded_and_every_caller_is_served(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "FREE_BYTES", SMALLEST_BYTES)
    monkeypatch.setattr(HeldBytesMachine, "attack", attack, raising=False)
    wanted = settings(deadline=None, stateful_step_count=40, report_multiple_bugs=False)
    run_state_machine_as_test(HeldBytesMachine, settings=wanted)


def test_a_caller_that_fills_its_share_leaves_the_last_tenth_to_others() -> None:
    held = MemoryBudget(12 * MIB, 2, MIB)
    RequestMemory(held, "third").claim(MIB)  # the oldest, which counts apart
    first, hog, other, another = (RequestMemory(held, caller) for caller in ("hog", "hog", "other", "other"))
    first.claim(MIB)
    hog.claim(8 * MIB)
    with pytest.raises(Overloaded, match=f"{9 * MIB} of them for this caller"):
        hog.claim(1)
    other.claim(MIB // 2)
    another.claim(MIB // 2)
    with pytest.raises(Overloaded):
        another.claim(1)
    other.claim(MIB)
    with pytest.raises(Overloaded):
        other.claim(MIB + 1)


def test_small_request_is_served_at_any_memory_use() -> None:
    held = MemoryBudget(100)
    large, small = RequestMemory(held), RequestMemory(held)
    large.claim(1_000_000)  # the oldest always fits
    small.claim(FREE_BYTES)
    assert not small.is_full()
    with pytest.raises(Overloaded):
        small.claim(1)


ANNOUNCED = b"POST /v1/moderations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


@pytest.mark.attack("held bytes: announced")
async def test_silent_requests_that_announce_bodies_take_nothing_from_others(attack: Attack) -> None:
    large = {**HELLO, "input": "y" * (MIB // 2)}
    async with relaying([Send(reply({"ok": True}))], limits={"held_bytes": 2 * MIB, "body_bytes": MIB}) as (_, served):
        writers = []
        for _ in range(16):
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(ANNOUNCED + b"content-length: %d\r\n\r\n{" % MIB)
            writers.append(writer)
        await until(lambda: served.state.in_flight.busy == 16)
        attack.peak_bytes, attack.allowed_bytes = served.state.in_flight.held.total_bytes, 16
        answer = await served.ask(large, "/v1/moderations").answer()
        attack.check(answer.status == 200, answer.body[:200])
        for writer in writers:
            writer.close()
        await until(lambda: not served.state.in_flight.held.total_bytes)


@pytest.mark.attack("held bytes: arriving")
async def test_a_body_that_does_not_fit_as_it_arrives_is_refused_and_its_connection_closes(attack: Attack) -> None:
    headers, begin = b"transfer-encoding: chunked\r\n\r\n", b"10000\r\n%b\r\n" % (b"x" * 65536) * 10
    async with relaying([Send(reply({"ok": True}))], limits={"held_bytes": MIB, "body_bytes": MIB}) as (
        upstream,
        served,
    ):
        readers = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(ANNOUNCED + headers + begin)
            readers.append((reader, writer))
        done, others = await asyncio.wait(
            [asyncio.create_task(reader.read()) for reader, _ in readers], return_when="FIRST_COMPLETED"
        )
        answer = done.pop().result()
        attack.peak_bytes, attack.allowed_bytes = served.state.in_flight.held.total_bytes, MIB
        attack.check(answer.startswith(b"HTTP/1.1 503"), answer)
        attack.check(b"\r\nretry-after: 1\r\n" in answer and b"\r\nconnection: close\r\n" in answer, answer)
        attack.check(len(others) == 1 and not upstream.received, len(others))
        for _, writer in readers:
            writer.close()
        await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.attack("held bytes: slow readers")
async def test_slow_readers_of_large_replies_are_bounded_and_served(attack: Attack) -> None:
    large_reply = Send(reply(b'{"object":"list","data":[{"object":"x","text":"%b"}]}' % (b"x" * 12 * MIB)))
    readers, limits = 5, {"held_bytes": 16 * MIB, "reply_bytes": 13 * MIB, "body_bytes": MIB}  # the kernel takes 6 MiB
    async with relaying(*[[large_reply]] * readers, [Send(reply({"ok": True}))], limits=limits) as (upstream, served):
        held, most_bytes = served.state.in_flight.held, 0
        asks = [served.ask({**HELLO, "input": "x"}, "/v1/moderations") for _ in range(readers)]

        async def watch() -> None:
            nonlocal most_bytes
            while True:
                most_bytes = max(most_bytes, held.total_bytes)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        for ask in asks:
            await ask.__aenter__()
        await until(lambda: held.waits)
        await at_rest(lambda: held.total_bytes)  # no client reads, so the bytes remain held
        attack.check(held.total_bytes > 16 * MIB, held.total_bytes)
        large = await served.ask({**HELLO, "input": "y" * (MIB // 2)}, "/v1/moderations").answer()
        small = await served.ask({**HELLO, "input": "y"}, "/v1/moderations").answer()
        answers = await asyncio.gather(*(ask.answer() for ask in asks))
        for ask in asks:
            await ask.__aexit__()
        await until(lambda: not held.total_bytes)
        watching.cancel()
        requests = len(upstream.received)
    attack.peak_bytes, attack.allowed_bytes = most_bytes, 16 * MIB + 13 * MIB + readers * 512 * 1024
    attack.check(most_bytes <= attack.allowed_bytes, most_bytes)
    attack.check([answer.status for answer in answers] == [200] * readers, [answer.status for answer in answers])
    attack.check(all(large_reply.data.endswith(answer.body) for answer in answers), "a reply was changed")
    attack.check(
        (large.status, small.status) == (503, 200) and requests == readers + 1,
        (large.status, large.body[:200], requests),
    )
    assert large.headers.get("retry-after") == "1"


IMAGE = b"iVBORw0KGgo" * (5 * MIB // 11)
LARGE = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":%b}]}\n\n'
)
FIRST, EVENT = LARGE % b'{"content":"a"}', LARGE % (b'{"content":"%b"}' % IMAGE)
END = LARGE.replace(b'"delta":%b', b'"delta":{},"finish_reason":"stop"') + b"data: [DONE]\n\n"


@pytest.mark.attack("held bytes: an event that waits")
@pytest.mark.parametrize(("before", "leaves"), [(b"", False), (FIRST, True), (FIRST, False)])
async def test_an_event_waits_for_a_full_budget_and_passes_or_is_given_up(
    attack: Attack, before: bytes, leaves: bool
) -> None:
    limits = {"held_bytes": 64 * MIB, "reply_bytes": MIB, "body_bytes": MIB}  # an event of 5 MiB counts 15
    async with relaying([*begin_stream(), Send(chunk(before + EVENT + END)), Send(b"0\r\n\r\n")], limits=limits) as (
        upstream,
        served,
    ):
        held = served.state.in_flight.held
        first = RequestMemory(held, "local")  # older than the stream, which cannot use the reserve of its caller then
        first.claim(MIB)
        assert held.hold(held.shared_bytes - held.total_bytes)
        full_bytes = held.total_bytes
        async with served.ask({**HELLO, "stream": True}) as ask:
            await until(lambda: held.waits)
            await at_rest(lambda: held.total_bytes)
            attack.peak_bytes, attack.allowed_bytes = held.total_bytes - full_bytes, 3 * MIB
            attack.check(0 < attack.peak_bytes <= attack.allowed_bytes, held.total_bytes)
            if not leaves:
                held.hold(-full_bytes + MIB)
                answer = await ask.answer()
                attack.check((answer.status, answer.whole) == (200, True), answer.body[:300])
                attack.check(answer.body == before + EVENT + END, answer.body[-300:])
        await until(lambda: held.total_bytes == (full_bytes if leaves else MIB))
        attack.check(not held.waits and not held.stalled, (held.waits, held.stalled))
        if leaves:
            await upstream.left()
            held.hold(-full_bytes + MIB)
        first.release()
        left = (held.total_bytes, held.by_caller, held.large)
        attack.check(left == (0, {}, {}), left)


def test_unread_streams_that_do_not_fit_end_the_longest_of_the_caller_with_the_most() -> None:
    held, ended = MemoryBudget(10 * MIB, 2), list[str]()
    oldest = RequestMemory(held)  # counts apart
    oldest.claim(MIB)
    for name, caller in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a"), ("a4", "a")):
        RequestMemory(held, caller).begin_stall(2 * MIB, partial(ended.append, name))
    assert (ended, held.total_bytes, held.by_caller) == ([], 11 * MIB, {"": MIB, "a": 8 * MIB, "b": 2 * MIB})
    last = RequestMemory(held, "b")
    last.begin_stall(MIB, partial(ended.append, "b2"))
    assert (ended, held.by_caller) == (["a1"], {"": MIB, "a": 6 * MIB, "b": 3 * MIB})
    last.end_stall(0)
    assert (held.by_caller["b"], len(held.stalled)) == (2 * MIB, 4)
