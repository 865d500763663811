"""`breaker.probe: models`: gatepass asks an ejected upstream for its models, with the time driven by hand."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.errors import UpstreamConnect
from gatepass.http_client.tls import TLSContexts
from gatepass.proxy.app_state import AppState, create_app_state, next_app_state
from gatepass.proxy.models import FETCH_S, probe_targets
from gatepass.proxy.retry import Outcome
from tests.unit.clock import DrivenClock
from tests.unit.proxy.test_attempt_retries import Reply
from tests.unit.proxy.test_failover import a_config, a_failover, eject, health, targets
from tests.unit.proxy.test_models import Upstream, listed

PROBED: dict[str, Any] = {"breaker": {"consecutive_failures": 1, "probe": "models"}}
TWO = {"m": {**targets("east", "west"), **PROBED}}


class Probing:
    """The probes of a process, in which a test replaces the current state."""

    def __init__(self, models: Mapping[str, Any], **upstreams: Upstream) -> None:
        self.clock = DrivenClock()
        self.transports: dict[str, Any] = {**upstreams}
        self.use(create_app_state(a_config(dict(models)), self.clock))

    def use(self, built: AppState) -> None:
        found = {name: replace(built.upstreams[name], transport=one) for name, one in self.transports.items()}
        self.built, self.state = built, replace(built, upstreams={**built.upstreams, **found})

    def reload(self, models: Mapping[str, Any]) -> None:
        self.use(next_app_state(a_config(dict(models)), TLSContexts(), self.built))

    def word(self, upstream: str, name: str = "m") -> str:
        settings = self.state.routes.route("chat", name).breaker
        return health(self.state, upstream, name).state(self.clock.now(), 0.0, settings)[0]

    def chosen(self) -> str:
        """Return the upstream of a request, whose client leaves."""
        failover, now_s = a_failover(self.state), self.clock.now()
        assert failover.choose(now_s)
        failover.ended(now_s, Outcome.CLIENT_GONE, None, was_asked=True)
        return failover.target.upstream


@asynccontextmanager
async def probing(models: Mapping[str, Any] = TWO, **upstreams: Upstream) -> AsyncIterator[Probing]:
    """Probes of a process in which the target of the model `m` at `east` is ejected for 30 s."""
    probes = Probing(models, **upstreams)
    probes.chosen()
    eject(probes.state, "east")
    task = asyncio.create_task(probe_targets(lambda: probes.state))
    try:
        yield probes
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_list_of_models_ends_the_ejection_and_no_request_is_a_probe():
    east = Upstream(None)
    async with probing(east=east) as probes:
        await probes.clock.advance(29)
        assert (east.requests, probes.chosen()) == (0, "west")
        await probes.clock.advance(2)
        assert (east.requests, probes.chosen()) == (1, "west")
        east.reply = listed("other")
        east.free.set()
        await probes.clock.advance(0)
        assert (probes.word("east"), probes.chosen()) == ("available", "east")
        await probes.clock.advance(100)
        assert east.requests == 1


@pytest.mark.parametrize("reply", [UpstreamConnect("refused", upstream="east", sent=False), Reply({}, 404), None])
async def test_anything_else_renews_it(reply):
    east = Upstream(reply)
    async with probing(east=east) as probes:
        await probes.clock.advance(31 + FETCH_S)
        assert (east.requests, probes.word("east"), probes.chosen()) == (1, "ejected", "west")
        # the second ejection takes 60 s
        await probes.clock.advance(50)
        assert east.requests == 1
        east.reply = listed("other")
        await probes.clock.advance(12)
        assert (east.requests, probes.word("east")) == (2, "available")


async def test_an_upstream_gets_one_request_for_all_its_targets():
    names = ("a", "b", "m")
    models = {name: {**targets("east", "west"), **PROBED} for name in names}
    east, west = Upstream(None), Upstream(listed("other"))
    async with probing(models, east=east, west=west) as probes:
        for name in names:
            a_failover(probes.state, name)
            eject(probes.state, "east", name)
        eject(probes.state, "west")
        await probes.clock.advance(31)
        # a hanging upstream delays no other one
        assert (east.requests, west.requests, probes.word("west")) == (1, 1, "available")
        east.reply = listed("other")
        east.free.set()
        await probes.clock.advance(0)
        assert {probes.word("east", name) for name in names} == {"available"}


async def test_a_request_stays_the_probe_without_the_setting():
    east = Upstream(listed("other"))
    async with probing({"m": {**targets("east", "west"), "breaker": {}}}, east=east) as probes:
        await probes.clock.advance(100)
        assert (east.requests, probes.word("east"), probes.chosen()) == (0, "half_open", "east")


async def test_a_reload_ends_a_probe_without_a_verdict():
    east = Upstream(None)
    async with probing(east=east) as probes:
        await probes.clock.advance(31)
        assert east.requests == 1
        probes.reload(TWO)
        east.reply = listed("other")  # from the next request on
        await probes.clock.advance(FETCH_S - 1)
        assert probes.word("east") == "half_open"
        await probes.clock.advance(2)
        assert (east.requests, probes.word("east")) == (2, "available")


async def test_a_reload_that_removes_an_upstream_at_the_moment_of_its_probe_ends_no_others():
    probes = Probing(TWO, east=Upstream(listed("other")))
    probes.chosen()
    eject(probes.state, "east")
    probes.clock.suspend(31)
    upstreams = {"west": {"base_url": "http://west.example/v1"}}
    config = Config.model_validate({"upstreams": upstreams, "models": {"m": {**targets("west"), **PROBED}}})
    states = [next_app_state(config, TLSContexts(), probes.built), probes.state]
    task = asyncio.create_task(probe_targets(lambda: states.pop() if len(states) > 1 else states[0]))
    await probes.clock.advance(3)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
