"""An upstream that does not end its body after `[DONE]`: the answer is out, and no story of it goes on."""

import logging

import pytest

from gatepass.http_client import response_body
from tests.integration.answers import EVENTS
from tests.integration.gateway import HELLO, relaying
from tests.integration.scripted import Dialogue, Hold, Send, begin_stream, chunk
from tests.integration.test_profiles import lines_of
from tests.unit.clock import DrivenClock
from tests.waiting import until

ENDLESS: Dialogue = [*begin_stream(), *(Send(chunk(one)) for one in EVENTS), Hold()]
TOTAL_S = 0.5


@pytest.mark.parametrize("is_stream", [False, True])
async def test_connection_waits_for_the_end_of_a_body_and_closes_after_a_time(is_stream, monkeypatch):
    monkeypatch.setattr(response_body, "TAIL_S", 600.0)
    models = {"m": {"upstream": "chat", "stream": "aggregate"}}
    async with relaying(ENDLESS, models=models) as (upstream, gp):
        answer = await gp.ask({**HELLO, "stream": is_stream}).answer()
        await until(lambda: not gp.state.in_flight.busy)
        assert (answer.status, answer.whole, upstream.open) == (200, True, 1)
        monkeypatch.setattr(response_body, "TAIL_S", 0.01)
        await gp.ask({**HELLO, "stream": is_stream}).answer()
        await until(lambda: upstream.open == 1)  # the second connection is closed, the first one still waits


async def test_a_total_that_passes_in_the_tail_makes_no_error_of_a_whole_answer(caplog):
    caplog.set_level(logging.INFO, "gatepass")
    clock = DrivenClock()
    async with relaying(ENDLESS, chat={"timeouts": {"total_s": TOTAL_S}}, clock=clock) as (_, gp):
        answer = await gp.ask({**HELLO, "stream": True}).answer()
        await clock.advance(TOTAL_S)
        (line,) = await lines_of(caplog, 1)
    assert answer.events[-1] == "[DONE]"
    assert (line["outcome"], line.get("code"), line["duration_s"]) == ("ok", None, 0.0)
