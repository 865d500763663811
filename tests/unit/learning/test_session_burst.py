"""Two hundred simultaneous requests to an unknown model, on a driven clock."""

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from gatepass.clock import sleep
from gatepass.dialects.error_body import read_error_body
from gatepass.errors import UpstreamErrorReply
from gatepass.learning.memory import MOST_WAIT_S, WAIT_S
from gatepass.learning.session import Learner, wait_for_trial
from gatepass.types import Call
from tests.memory import traced_memory
from tests.rows import CHAT
from tests.unit.clock import DrivenClock, settle
from tests.unit.learning.rejections import USE, openai
from tests.unit.learning.upstreams import NO_STREAM, O3, Refusal, Upstream, learn_from, plan, without
from tests.unit.normalize.calls import a_call

BURST = 200
CALL = a_call(b'{"model":"o3-mini","stream":true,"messages":[]}', CHAT, stream=True)
FULL_BODY = {"model": "o3-mini", "stream": True, "messages": [], "max_tokens": 5, "temperature": 0.5}
FULL = a_call(json.dumps(FULL_BODY).encode(), CHAT, stream=True)
O3_MINI = Upstream([NO_STREAM, without("max_tokens", USE), without("temperature")])


@dataclass
class Requests:
    """Requests over an upstream that takes `refuses_s` to refuse and `answers_s` to answer."""

    clock: DrivenClock
    refuses_s: float = 0.05
    answers_s: float = 1.0
    refusal: Callable[[Call], Refusal | None] = lambda call: NO_STREAM if call.stream else None
    learner: Learner = field(default_factory=Learner)
    call: Call = CALL
    calls: int = 0
    waited_s: list[float] = field(default_factory=list)

    async def one(self) -> str:
        with closing(self.learner.session(O3, CHAT.members)) as learning:
            entered_s = self.clock.now()
            await wait_for_trial(learning, self.call, self.clock)
            self.waited_s.append(self.clock.now() - entered_s)
            while True:
                planned = plan(learning, self.call, self.clock.now())
                self.calls += 1
                refusal = self.refusal(planned)
                await sleep(self.clock, self.answers_s if refusal is None else self.refuses_s)
                if refusal is None:
                    learning.succeeded(self.clock.now())
                    return ",".join(planned.adapted)
                error_body = read_error_body(refusal.body, refused=True)
                error = UpstreamErrorReply("", upstream="chat", status=refusal.status, error_body=error_body)
                if not learn_from(learning, error, self.clock.now()):
                    learning.failed(error, self.clock.now())
                    return "refused"

    async def burst(self, count: int = BURST, for_s: float = 60.0) -> list[str]:
        tasks = [asyncio.create_task(self.one()) for _ in range(count)]
        await self.clock.advance(for_s)
        return await asyncio.gather(*tasks)


async def test_two_hundred_requests_to_a_model_without_streams_cause_one_extra_call():
    requests = Requests(DrivenClock())
    assert set(await requests.burst()) == {"stream=synth"}
    assert requests.calls == BURST + 1
    assert max(requests.waited_s) == pytest.approx(1.05)


async def test_slow_whole_reply_delays_no_request_beyond_the_limit():
    requests = Requests(DrivenClock(), answers_s=30.0)
    assert set(await requests.burst(for_s=120.0)) == {"stream=synth"}
    assert requests.calls == BURST + 1
    assert max(requests.waited_s) == pytest.approx(0.05 + WAIT_S)


async def test_model_that_needs_three_changes_causes_three_extra_calls():
    """Each refusal is a word of the one ahead: the others wait for what it tries next."""
    requests = Requests(DrivenClock(), refuses_s=0.9, refusal=O3_MINI.answer, call=FULL)
    changes = "stream=synth,rename=max_tokens>max_completion_tokens,drop=temperature"
    assert set(await requests.burst()) == {changes}
    assert requests.calls == BURST + 3
    assert WAIT_S < max(requests.waited_s) <= MOST_WAIT_S


async def test_slowly_rejecting_upstream_delays_no_request_beyond_the_limit():
    requests = Requests(DrivenClock(), refuses_s=3.0)
    assert set(await requests.burst()) == {"stream=synth"}
    assert requests.calls == BURST + BURST
    assert max(requests.waited_s) == WAIT_S
    requests.calls = 0
    await requests.burst()
    assert requests.calls == BURST


async def test_request_does_not_wait_for_a_slow_answer():
    requests = Requests(DrivenClock(), answers_s=30.0, refusal=lambda call: None)
    first = asyncio.create_task(requests.one())
    await requests.clock.advance(10.0)
    assert set(await requests.burst()) == {""}
    assert max(requests.waited_s) == 0.0
    assert await first == ""


async def test_a_server_that_fails_whichever_request_is_ahead_keeps_no_request_beyond_the_bound():
    requests = Requests(
        DrivenClock(), refuses_s=0.5, refusal=lambda call: Refusal(lambda _: True, openai("Oops."), 500)
    )
    assert set(await requests.burst()) == {"refused"}
    assert requests.calls == BURST
    assert max(requests.waited_s) == WAIT_S


async def test_a_model_that_streams_is_waited_for_once():
    requests = Requests(DrivenClock(), answers_s=0.4, refusal=lambda call: None)
    assert set(await requests.burst()) == {""}
    assert requests.calls == BURST
    assert max(requests.waited_s) == pytest.approx(0.4)
    requests.waited_s.clear()
    await requests.burst()
    assert max(requests.waited_s) == 0.0


async def test_model_that_rejects_every_change_causes_one_extra_call():
    def refusal(call: Call) -> Refusal:
        return NO_STREAM if call.stream else Refusal(lambda _: True, openai("Something else."))

    requests = Requests(DrivenClock(), refusal=refusal)
    assert set(await requests.burst()) == {"refused"}
    assert requests.calls == BURST + 1


async def test_expired_rule_is_tested_by_one_of_two_hundred_requests():
    requests = Requests(DrivenClock())
    await requests.burst()
    await requests.clock.advance(3_600.0)
    requests.calls = 0
    await requests.burst(BURST)
    assert requests.calls <= BURST + 2


async def test_a_leader_that_goes_away_is_followed_by_the_next():
    requests = Requests(DrivenClock(), refuses_s=1.0)
    leader = asyncio.create_task(requests.one())
    await settle()
    others = [asyncio.create_task(requests.one()) for _ in range(20)]
    await requests.clock.advance(0.5)
    assert requests.calls == 1
    leader.cancel()
    await requests.clock.advance(0.5)
    assert requests.calls == 2
    await requests.clock.advance(10.0)
    assert set(await asyncio.gather(*others)) == {"stream=synth"}
    assert requests.calls <= 1 + 20 + 1


async def test_a_request_that_leaves_while_it_waits_leaves_nothing_behind():
    requests = Requests(DrivenClock(), refuses_s=1.0)
    leader = asyncio.create_task(requests.one())
    await settle()
    with traced_memory() as memory:
        waiting = [asyncio.create_task(requests.one()) for _ in range(BURST)]
        await settle()
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in ended} == {asyncio.CancelledError}
        del ended, task, waiting
        await requests.clock.advance(10.0)
    assert memory.kept_bytes < 100 * BURST
    assert await leader == "stream=synth"


async def test_no_request_waits_twice_if_each_is_rejected():
    requests = Requests(DrivenClock(), refusal=lambda call: Refusal(lambda _: True, openai("You are wrong.")))
    assert set(await requests.burst()) == {"refused"}
    assert requests.calls == BURST
    assert max(requests.waited_s) == pytest.approx(0.05)


async def test_while_the_upstream_is_overloaded_the_bound_holds():
    busy = Refusal(lambda _: True, openai("Slow down."), 429)
    requests = Requests(DrivenClock(), refuses_s=0.5, refusal=lambda call: busy)
    assert set(await requests.burst()) == {"refused"}
    assert requests.calls == BURST
    assert max(requests.waited_s) == WAIT_S
